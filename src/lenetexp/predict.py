"""scripts/predict.py: what a trained net makes of images. A run's record is all that it needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenetexp.config.commands import PredictConfig
from lenetexp.datasets.mnist_form import Invert
from lenetexp.datasets.pictures import SUFFIXES, FamiliarImages, PictureFile, describe_counts, find_images, read_image
from lenetexp.datasets.splits import Split
from lenetexp.errors import UserError, wrap_text
from lenetexp.inference.trained import TrainedNet, load_net
from lenetexp.reporting import run_figures, style
from lenetexp.reporting.terminal import format_path
from lenetexp.tracking.selection import find_run
from lenetexp.tracking.store import open_store
from lenetexp.training.evaluate import evaluate
from lenetexp.training.setup import pick_device

Answer = tuple[list[str], style.Figure]  # what is printed, and the picture


def run(settings: PredictConfig, config: dict[str, Any], folder: Path) -> None:
    """Print what the net of a run predicts, and draw it into `folder`.

    Raises:
        UserError: There is nothing to predict.
    """
    device = pick_device(settings.device)
    files, ignored = find_images(settings.images or [])
    if len(files) == 1:
        read_image(files[0].path, "L")  # if it cannot be read, say so before the slow part
    stored = find_run(open_store(settings.tracking, create=False), settings.run)
    net = load_net(stored, settings.trust)
    net.model.to(device)
    lines, figure = (
        _predict_photos(net, files, settings, device) if files else _predict_test_images(net, settings, device)
    )
    if ignored:
        lines.append(f"ignored: {describe_counts(ignored)}; pictures are {SUFFIXES}")
    style.save_figures({"predictions": figure}, folder)
    print(wrap_text(f"run {stored.run_id} ({stored.name}): {net.describe(stored)}"), end="\n\n")
    print("\n".join(lines))
    print(f"\npicture: {format_path(folder / 'predictions.png')}")


def _predict_test_images(net: TrainedNet, settings: PredictConfig, device: torch.device) -> Answer:
    """Return lines and a picture of test images of the run's dataset: the first ones, or of all classes if sorted."""
    data = net.load_own_images(settings.root, device)
    if data.classes != net.facts.classes:
        where = f"root={settings.root}" if settings.root else f"dataset {data.name}"
        names, other_names = (", ".join(classes)[:80] for classes in (net.facts.classes, data.classes))
        raise UserError(f"{where}: must hold images of the net's classes, {names}; these are of {other_names}")
    lines = []
    if data.digest != net.facts.digest:
        lines.append("note: these are not the images that the run was made with (another digest)")
    is_sorted = bool((data.test.labels.diff() >= 0).all())
    count = min(settings.count, len(data.test))
    numbers: Sequence[int] = _space_evenly(len(data.test), count) if is_sorted else range(count)
    test = data.test[torch.tensor(numbers, device=device)]
    predicted, confidences, all_classes = _classify_images(net, test.images)
    actual = [data.classes[number] for number in test.labels]
    for guess, truth, confidence, every in zip(predicted, actual, confidences, all_classes, strict=True):
        wrong = "" if guess == truth else "   wrong"
        lines.append(f'predicted: "{guess}", actual: "{truth}", confidence: {confidence:.1%}{wrong}')
        lines += [every] if settings.probabilities else []
    return lines, run_figures.draw_predictions(test.images.cpu().numpy(), predicted, actual, confidences)


def _space_evenly(total: int, count: int) -> Sequence[int]:
    """Return at most `count` numbers below `total`, in order and evenly spaced."""
    count = min(total, count)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


class Photo(NamedTuple):
    """A picture of the user's that the net can be given."""

    name: str
    original: NDArray[np.uint8]  # H×W×3
    image: NDArray[np.uint8]  # C×H×W, what the net is given of it
    signs: int  # side by side, as far as that is looked for
    actual: str | None  # its folder's name, if that is a class


def _predict_photos(net: TrainedNet, files: list[PictureFile], settings: PredictConfig, device: torch.device) -> Answer:
    """Return lines and a picture of the user's own pictures. Those that cannot be used are skipped and named."""
    lines = []
    if len(files) > settings.count:
        numbers: Sequence[int] = range(settings.count)
        if any(file.folder for file in files):
            numbers = _space_evenly(len(files), settings.count)
        which = "the first " if numbers == range(settings.count) else ""
        lines.append(f"{which}{settings.count} of {len(files)} pictures (count={len(files)} for all)")
        files = [files[number] for number in numbers]
    photos: list[Photo] = []
    for file in files:
        try:
            photos.append(_read_photo(net, file, settings.invert))
        except UserError as error:
            if len(files) == 1:
                raise
            lines.append(f"skipped: {error}")
    if not photos:
        raise UserError(f"images: none of the pictures can be used; {lines[-1]}")
    images = np.stack([photo.image for photo in photos])
    predicted, confidences, all_classes = _classify_images(net, torch.from_numpy(images).to(device))
    strange, captions = _find_strange(net, images, settings), []
    for photo, guess, confidence, every, odd in zip(photos, predicted, confidences, all_classes, strange, strict=True):
        actual = "" if photo.actual is None else f', actual: "{photo.actual}"'
        wrong = "   wrong" if photo.actual not in (None, guess) else ""
        doubt = "; ".join(_list_doubts(photo, odd))
        note = f"   not to be trusted: {doubt}" if doubt else ""
        lines.append(f'{photo.name}: predicted: "{guess}"{actual}, confidence: {confidence:.1%}{wrong}{note}')
        lines += [every] if settings.probabilities else []
        captions.append(f"{guess}? {doubt}" if doubt else f"{guess} ({confidence:.0%})")
    scored = [photo.actual == guess for photo, guess in zip(photos, predicted, strict=True) if photo.actual is not None]
    if scored:
        lines.append(f"accuracy: {sum(scored) / len(scored):.2%} ({sum(scored)} of {len(scored)} correct)")
    title = "Each picture and what the net was given of it"
    names, originals = [Path(photo.name).name for photo in photos], [photo.original for photo in photos]
    return lines, run_figures.draw_prepared_photos(names, originals, images, captions, title)


def _read_photo(net: TrainedNet, file: PictureFile, invert: Invert) -> Photo:
    signs = 1
    if net.facts.like_mnist:
        steps = net.compute_mnist_steps(file.path, invert)
        image, signs = steps.centred[None], steps.count_signs()
    else:
        image = net.prepare(file.path, invert)
    actual = file.folder if file.folder in net.facts.classes else None
    return Photo(str(file.path), np.array(read_image(file.path, "RGB")), image, signs, actual)


def _list_doubts(photo: Photo, is_strange: bool) -> list[str]:
    doubts = ["unlike the training images"] if is_strange else []
    return doubts + ([f"holds {photo.signs} signs side by side, and a net reads one"] if photo.signs > 1 else [])


def _find_strange(net: TrainedNet, images: NDArray[np.uint8], settings: PredictConfig) -> list[bool]:
    """Return which prepared pictures are unlike the training images; none if those are no longer here."""
    try:
        data = net.load_own_images(settings.root, torch.device("cpu"))
    except (UserError, OSError):
        return [False] * len(images)
    return FamiliarImages(data.train.images, data.val.images).find_strangers(torch.from_numpy(images))


def _classify_images(net: TrainedNet, images: Tensor) -> tuple[list[str], list[float], list[str]]:
    """Return the predicted classes of N×C×H×W uint8 images, their probabilities, and a line with all of them."""
    scores = evaluate(net.model, Split(images, torch.zeros(len(images), dtype=torch.int64)))
    lines = [
        "  " + "  ".join(f"{name}: {share:.1%}" for name, share in zip(net.facts.classes, shares, strict=True))
        for shares in scores.logits.softmax(1).tolist()
    ]
    return [net.facts.classes[number] for number in scores.predicted], scores.confidence.tolist(), lines
