"""Images with labels, and a config's dataset: checked, split, and on the device."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenetexp.config.targets import Dataset
from lenetexp.errors import UserError


@dataclass(frozen=True)
class Split:
    """N×C×H×W uint8 images with N int64 class numbers from 0."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Split":
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A dataset before validation images are held out. Every dataset function returns one."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    # Light on dark, scaled into 20×20 pixels in the middle of 28×28; pictures to predict on become so, too.
    like_mnist: bool = False


@dataclass(frozen=True)
class Data:
    """The three splits on the device, and facts about them."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    like_mnist: bool
    digest: str  # of all images and labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def build_facts(self) -> dict[str, Any]:
        """Return what is stored beside a trained net about its images, as plain values."""
        facts = {key: getattr(self, key) for key in ("name", "classes", "image_shape", "like_mnist", "digest")}
        return {**facts, "images": {part: len(getattr(self, part)) for part in ("train", "val", "test")}}


def load_data(settings: Dataset, device: torch.device) -> Data:
    """Load a dataset, hold out validation images, and put all on `device`.

    Raises:
        UserError: The dataset is missing or damaged, or a custom one returns something else than `Source` describes.
    """
    source = settings.instantiate("dataset", Source)
    if mistake := _find_mistake(source):
        raise UserError(f"dataset._target_={settings.target}: {mistake}")
    height, width = source.train.images.shape[2:]
    if settings.augment and height != width:
        raise UserError(f"dataset.augment: must be null for images that are not square ({height}×{width})")
    if settings.validation == "test":
        train, val = source.train, source.test
    else:
        train, val = hold_out(source.train, settings.validation, settings.split_seed, source.classes)
    train, val, test = (split.to(device) for split in (train, val, source.test))
    return Data(source.name, train, val, test, tuple(source.classes), source.like_mnist, _compute_digest(source))


_loaded: dict[str, Data] = {}  # the last data, by what they were loaded with


def load_data_once(dataset: Dataset, device: torch.device) -> Data:
    """Load the images. A worker process that runs several jobs of a sweep loads them once."""
    key = repr((dataset.model_dump(exclude_unset=True), device))
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_data(dataset, device)
    return _loaded[key]


def hold_out(split: Split, fraction: float, seed: int, classes: Sequence[str]) -> tuple[Split, Split]:
    """Split off `fraction` of each class. Both parts keep the order of the images.

    Raises:
        UserError: A class has only one image.
    """
    rng = np.random.default_rng(seed)
    labels = split.labels.numpy()
    is_held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise UserError(f"dataset: the class {classes[label]} has one image; must have at least 2")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        is_held_out[members[:count]] = True
    return split[torch.from_numpy(~is_held_out)], split[torch.from_numpy(is_held_out)]


def _find_mistake(source: Source) -> str | None:
    """Return a sentence about what a custom dataset got wrong, or None."""
    shape = getattr(source.train.images, "shape", ())[1:]
    for name, split in (("train", source.train), ("test", source.test)):
        images, labels = split.images, split.labels
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
            return f"{name} images must be N×C×H×W uint8 with N above 0, not {_describe_type(images)}"
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            return f"{name} labels must be {len(images)} int64 numbers, not {_describe_type(labels)}"
        if images.shape[1:] != shape:
            return f"test images must have the shape of training images, {tuple(shape)}, not {_describe_type(images)}"
        lowest, highest, last = int(labels.min()), int(labels.max()), len(source.classes) - 1
        if lowest < 0 or highest > last:
            return f"{name} labels must be from 0 to {last}, not {lowest} to {highest}"
    if bool((source.train.labels == source.train.labels[0]).all()):
        return f"train images must be of two or more classes, not all of {source.classes[source.train.labels[0]]}"
    return None


def _describe_type(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _compute_digest(source: Source) -> str:
    sha = hashlib.sha256()
    for split in (source.train, source.test):
        for tensor in (split.images, split.labels):
            sha.update(str(tuple(tensor.shape)).encode())
            sha.update(tensor.contiguous().numpy().data)
    return sha.hexdigest()[:36]  # MLflow's limit for a dataset's digest
