"""A trained run and some images to classes and probabilities. The run's record is all that is needed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from lenetexp import checkpoint, data, datasets, device, figures, models, pictures, tracking
from lenetexp.config import Dataset, PredictConfig, Settings, Target, UserError, check, one_line
from lenetexp.datasets import read_image
from lenetexp.evaluate import Scores, logits
from lenetexp.figures import Figure
from lenetexp.report import shown
from lenetexp.trust import read_config, refuse_strangers


class _Recorded(Settings):
    """What of a stored config is needed here; the rest may have changed since."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    model: Target
    dataset: Dataset


@dataclass(frozen=True)
class TrainedNet:
    """A net with its best weights, and what it knows of images."""

    model: nn.Module
    dataset: Dataset  # where the run's images came from
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    like_mnist: bool
    digest: str
    trained_on: str  # the net and its data in a few words


def run(settings: PredictConfig, config: dict[str, Any], folder: Path) -> None:
    """Prints what the net of a run predicts, and writes a picture of it into `folder`.

    Raises:
        UserError: no such run, or nothing to predict on.
    """
    where = device.pick(settings.device)
    files = pictures.find(settings.images) if settings.images else []
    if len(files) == 1:
        read_image(files[0], "L")  # that it cannot be read is told before anything else is done
    store = tracking.open_store(settings.tracking, create=False)
    stored = tracking.find_run(store, settings.run)
    net = load(stored, settings.trust)
    net.model.to(where)
    if files:
        said, figure = _predict_pictures(net, files, settings, where)
    else:
        said, figure = _predict_test_images(net, settings, where)
    figures.save({"predictions": figure}, folder)
    accuracy = stored.metrics.get("best/val_accuracy", nan)
    ended = f"validation accuracy {accuracy:.2%}" if not isnan(accuracy) else stored.status.lower()
    print(f"run {stored.run_id} ({stored.name}): {net.trained_on}, {ended}\n")
    print("\n".join(said))
    print(f"\npicture: {shown(folder / 'predictions.png')}")


def load(stored: tracking.Stored, trust: Sequence[str] = ()) -> TrainedNet:
    """Rebuilds a run's net from its artifacts alone.

    Args:
        stored: the run.
        trust: modules, beside `trust.TRUSTED`, whose classes its config may name.

    Raises:
        UserError: the run has no weights, or its config names what is not trusted.
    """
    with tracking.scratch() as folder:
        config_file, facts_file, weights_file = stored.download(
            folder, "config.yaml", "dataset.json", "checkpoints/best.pt"
        )
        try:
            recorded = check(_Recorded, read_config(config_file.read_text(), f"run={stored.run_id}"))
            facts = json.loads(facts_file.read_text())
            classes = tuple(map(str, facts["classes"]))
            channels, height, width = map(int, facts["image_shape"])
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"run={stored.run_id}: its record is damaged ({one_line(error)[:120]})"
            ) from None
        refuse_strangers(recorded.model.call(), "model", trust, nn.Module)
        refuse_strangers(recorded.dataset.call(), "dataset", trust, None, datasets.FUNCTIONS)
        dataset = recorded.dataset
        if facts.get("root") is not None:  # as seen from any folder, where the config's may be relative
            dataset = dataset.model_copy(update={"root": str(facts["root"])})
        model = models.build(recorded.model, len(classes), (channels, height, width))
        weights = checkpoint.load(weights_file)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"run={stored.run_id}: its weights do not fit its net ({one_line(error)[:160]})"
        ) from None
    return TrainedNet(
        model=model.eval(),
        dataset=dataset,
        classes=classes,
        image_shape=(channels, height, width),
        like_mnist=bool(facts.get("like_mnist")),
        digest=str(facts.get("digest")),
        trained_on=f"{recorded.model.name} on {facts.get('name')}",
    )


def _scores(net: TrainedNet, images: Tensor, labels: Tensor) -> Scores:
    return Scores(logits(net.model, images).cpu(), labels.cpu())


def _predict_test_images(
    net: TrainedNet, settings: PredictConfig, where: torch.device
) -> tuple[list[str], Figure]:
    """Lines and a picture of the first test images of the dataset that the net was trained on."""
    dataset = net.dataset
    if settings.root is not None:
        dataset = check(Dataset, {**dataset.model_dump(exclude_unset=True), "root": settings.root})
    images = data.load(dataset, where)
    said = []
    if images.classes != net.classes:
        raise UserError(
            f"root={settings.root}: must hold images of the classes that the net knows, "
            f"{', '.join(net.classes)[:80]}; these are of {', '.join(images.classes)[:80]}"
        )
    if images.digest != net.digest:
        said.append("note: these are not the images that the run was made with (another digest)")
    test = images.test[torch.arange(min(settings.count, len(images.test)), device=where)]
    scores = _scores(net, test.images, test.labels)
    predicted = [net.classes[i] for i in scores.predicted]
    actual = [net.classes[i] for i in scores.labels]
    sure = scores.confidence.tolist()
    for guess, true, confidence in zip(predicted, actual, sure, strict=True):
        wrong = "" if guess == true else "   wrong"
        said.append(f'predicted: "{guess}", actual: "{true}", confidence: {confidence:.1%}{wrong}')
    return said, figures.predictions(test.images.cpu().numpy(), predicted, actual, sure)


def _predict_pictures(
    net: TrainedNet, files: list[Path], settings: PredictConfig, where: torch.device
) -> tuple[list[str], Figure]:
    """Lines and a picture of the user's own pictures, each brought to the form that the net knows.

    One that cannot be read is left out, and said to be.

    Raises:
        UserError: none can be read.
    """
    said = []
    if len(files) > settings.count:
        said.append(f"the first {settings.count} of {len(files)} pictures (count={len(files)} for all)")
    usable: dict[Path, np.ndarray] = {}
    for file in files[: settings.count]:
        try:
            usable[file] = _prepare(net, file, settings)
        except UserError as error:
            if len(files) == 1:
                raise
            said.append(f"left out: {error}")
    if not usable:
        raise UserError(f"images: none of the pictures can be used; {said[-1]}")
    prepared = np.stack([*usable.values()])
    images = torch.from_numpy(prepared).to(where)
    scores = _scores(net, images, torch.zeros(len(usable), dtype=torch.int64))
    predicted = [net.classes[i] for i in scores.predicted]
    sure = scores.confidence.tolist()
    for file, guess, confidence in zip(usable, predicted, sure, strict=True):
        said.append(f'{file}: predicted: "{guess}", confidence: {confidence:.1%}')
    originals = [np.array(read_image(file, "RGB")) for file in usable]
    captions = [f"{guess} ({confidence:.0%})" for guess, confidence in zip(predicted, sure, strict=True)]
    title = "Each picture and what the net was given of it"
    names = [file.name for file in usable]
    return said, figures.own_pictures(names, originals, prepared, captions, title)


def _prepare(net: TrainedNet, file: Path, settings: PredictConfig) -> np.ndarray:
    if not net.like_mnist:
        image = pictures.as_trained(file, net.image_shape)
        return 255 - image if settings.invert is True else image
    return pictures.like_mnist(np.array(read_image(file, "L")), settings.invert, str(file))
