"""What a trained net makes of images: scripts/predict.py. A run's record is all that it needs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenetexp.config.commands import PredictConfig
from lenetexp.datasets.images import find_images, read_image, unlike
from lenetexp.datasets.load import Split
from lenetexp.errors import UserError, wrapped
from lenetexp.reporting import run_figures, style
from lenetexp.reporting.terminal import shown
from lenetexp.tracking.query import find_run
from lenetexp.tracking.store import open_store
from lenetexp.trained import TrainedNet, load
from lenetexp.training.evaluate import evaluate
from lenetexp.training.setup import pick_device

Answer = tuple[list[str], style.Figure]  # what is printed, and the picture


def run(settings: PredictConfig, config: dict[str, Any], folder: Path) -> None:
    """Prints what the net of a run predicts, and draws it into `folder`; `UserError` if there is nothing to predict."""
    device = pick_device(settings.device)
    files = find_images(settings.images) if settings.images else []
    if len(files) == 1:
        read_image(files[0], "L")  # if it cannot be read, say so before the slow part
    stored = find_run(open_store(settings.tracking, create=False), settings.run)
    net = load(stored, settings.trust)
    net.model.to(device)
    lines, figure = _photos(net, files, settings, device) if files else _test_images(net, settings, device)
    style.save({"predictions": figure}, folder)
    print(wrapped(f"run {stored.run_id} ({stored.name}): {net.about(stored)}"), end="\n\n")
    print("\n".join(lines))
    print(f"\npicture: {shown(folder / 'predictions.png')}")


def _test_images(net: TrainedNet, settings: PredictConfig, device: torch.device) -> Answer:
    """Lines and a picture of the first test images of the run's own dataset."""
    data = net.own_images(settings.root, device)
    if data.classes != net.facts.classes:
        where = f"root={settings.root}" if settings.root else f"dataset {data.name}"
        wanted, found = (", ".join(classes)[:80] for classes in (net.facts.classes, data.classes))
        raise UserError(f"{where}: must hold images of the net's classes, {wanted}; these are of {found}")
    lines = []
    if data.digest != net.facts.digest:
        lines.append("note: these are not the images that the run was made with (another digest)")
    test = data.test[torch.arange(min(settings.count, len(data.test)), device=device)]
    predicted, confidences, all_classes = _guesses(net, test.images)
    actual = [data.classes[number] for number in test.labels]
    for guess, truth, confidence, every in zip(predicted, actual, confidences, all_classes, strict=True):
        wrong = "" if guess == truth else "   wrong"
        lines.append(f'predicted: "{guess}", actual: "{truth}", confidence: {confidence:.1%}{wrong}')
        lines += [every] if settings.probabilities else []
    return lines, run_figures.predictions(test.images.cpu().numpy(), predicted, actual, confidences)


def _photos(net: TrainedNet, files: list[Path], settings: PredictConfig, device: torch.device) -> Answer:
    """Lines and a picture of the user's own pictures; those that cannot be used are skipped and named."""
    lines = []
    if len(files) > settings.count:
        lines.append(f"the first {settings.count} of {len(files)} pictures (count={len(files)} for all)")
    used: list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]] = []  # name, picture, what the net is given of it
    for file in files[: settings.count]:
        try:
            image = net.prepared(file, settings.invert)
            used.append((str(file), np.array(read_image(file, "RGB")), image))
        except UserError as error:
            if len(files) == 1:
                raise
            lines.append(f"skipped: {error}")
    if not used:
        raise UserError(f"images: none of the pictures can be used; {lines[-1]}")
    names, originals, prepared = zip(*used, strict=True)
    images = np.stack(prepared)
    predicted, confidences, all_classes = _guesses(net, torch.from_numpy(images).to(device))
    strange, captions = _strange(net, images, settings), []
    for name, guess, confidence, every, odd in zip(names, predicted, confidences, all_classes, strange, strict=True):
        doubt = "   not to be trusted: unlike the training images" if odd else ""
        lines.append(f'{name}: predicted: "{guess}", confidence: {confidence:.1%}{doubt}')
        lines += [every] if settings.probabilities else []
        captions.append(f"{guess}? unlike training" if odd else f"{guess} ({confidence:.0%})")
    title = "Each picture and what the net was given of it"
    return lines, run_figures.prepared_photos([Path(name).name for name in names], originals, images, captions, title)


def _strange(net: TrainedNet, images: NDArray[np.uint8], settings: PredictConfig) -> list[bool]:
    """Which prepared pictures are unlike the training images; none if those are not here any more."""
    try:
        data = net.own_images(settings.root, torch.device("cpu"))
    except (UserError, OSError):
        return [False] * len(images)
    return unlike(torch.from_numpy(images), data.train.images, data.val.images)


def _guesses(net: TrainedNet, images: Tensor) -> tuple[list[str], list[float], list[str]]:
    """The predicted classes of N×C×H×W uint8 images, their probabilities, and a line of those of all classes."""
    scores = evaluate(net.model, Split(images, torch.zeros(len(images), dtype=torch.int64)))
    lines = [
        "  " + "  ".join(f"{name}: {share:.1%}" for name, share in zip(net.facts.classes, shares, strict=True))
        for shares in scores.logits.softmax(1).tolist()
    ]
    return [net.facts.classes[number] for number in scores.predicted], scores.confidence.tolist(), lines
