"""A dataset as tensors on the device with its splits, and the batches of any epoch.

The order of images and their augmentation are functions of (seed, epoch) alone: any epoch can be
had without having lived through the ones before.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor

from lenetexp.config import Augment, Dataset, UserError, one_line
from lenetexp.datasets import Source, Split, hold_out

# Images that become floats at once: large enough that Python hardly counts, small enough for the cache.
BLOCK = 4096


@dataclass(frozen=True)
class Data:
    """The three splits on the device, and what is known about them."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    like_mnist: bool
    digest: str  # of all images and labels: 36 hexadecimal digits

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def facts(self) -> dict[str, Any]:
        """What a trained net must be told about the images it knows, as plain values."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "like_mnist": self.like_mnist,
            "digest": self.digest,
            "images": {"train": len(self.train), "val": len(self.val), "test": len(self.test)},
        }


def load(settings: Dataset, device: torch.device) -> Data:
    """Loads what `settings` names, holds out its validation images, and puts all on `device`.

    Raises:
        UserError: the images are missing, damaged, or not of the form that `Source` tells.
    """
    try:
        source = instantiate(settings.call(), _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"dataset._target_={settings.target}: {one_line(cause)}") from error
    _check(source, settings.target)
    height, width = source.train.images.shape[2:]
    if settings.augment and height != width:
        raise UserError(f"dataset.augment: must be null for images that are not square ({height}×{width})")
    if settings.validation == "test":
        train, val = source.train, source.test
    else:
        train, val = hold_out(source.train, settings.validation, settings.split_seed)
    return Data(
        name=source.name,
        train=_to(train, device),
        val=_to(val, device),
        test=_to(source.test, device),
        classes=tuple(source.classes),
        like_mnist=source.like_mnist,
        digest=_digest(source),
    )


def _check(source: Any, target: str) -> None:
    """That a user's own source is what the rest relies on."""
    if not isinstance(source, Source):
        raise UserError(
            f"dataset._target_={target}: must return a lenetexp.datasets.Source, "
            f"not a {type(source).__name__}"
        )
    for name, split in (("train", source.train), ("test", source.test)):
        images, labels = split.images, split.labels
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise UserError(f"dataset._target_={target}: {name} images and labels must be torch tensors")
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
            raise UserError(
                f"dataset._target_={target}: {name} images must be N×C×H×W uint8 with N above 0, "
                f"not {tuple(images.shape)} {images.dtype}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise UserError(
                f"dataset._target_={target}: {name} labels must be {len(images)} int64 numbers, "
                f"not {tuple(labels.shape)} {labels.dtype}"
            )
        if images.shape[1:] != source.train.images.shape[1:]:
            raise UserError(
                f"dataset._target_={target}: training and test images must have one shape, "
                f"not {tuple(source.train.images.shape[1:])} and {tuple(images.shape[1:])}"
            )
        if labels.min() < 0 or labels.max() >= len(source.classes):
            raise UserError(
                f"dataset._target_={target}: {name} labels must lie from 0 to "
                f"{len(source.classes) - 1}, not {int(labels.min())} to {int(labels.max())}"
            )


def _to(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device))


def _digest(source: Source) -> str:
    sha = hashlib.sha256()
    for tensor in (
        source.train.images,
        source.train.labels,
        source.test.images,
        source.test.labels,
    ):
        sha.update(str(tuple(tensor.shape)).encode())
        sha.update(tensor.contiguous().numpy().data)
    return sha.hexdigest()[:36]  # as much as MLflow keeps


def seed_of(purpose: str, seed: int, epoch: int) -> int:
    """A 63-bit seed for one purpose in one epoch; different purposes draw independently."""
    text = f"{purpose}/{seed}/{epoch}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(purpose: str, seed: int, epoch: int) -> torch.Generator:
    """A generator on the CPU, whatever the device, so that every device sees the same draws."""
    return torch.Generator().manual_seed(seed_of(purpose, seed, epoch))


def as_floats(images: Tensor) -> Tensor:
    """uint8 images as floats in [0, 1]."""
    return images.float().div_(255)


def batches(
    split: Split, batch_size: int, seed: int, epoch: int, augment: Augment | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch, B×C×H×W floats in [0, 1] and B labels; the last may be short.

    Args:
        split: images and labels on the device.
        batch_size: B, 1 or more.
        seed: the run's seed.
        epoch: which epoch, from 1.
        augment: how far images are moved, turned and scaled, or None.
    """
    order = torch.randperm(len(split), generator=generator("order", seed, epoch))
    transforms = affine(augment, len(split), split.images.shape[-1], seed, epoch) if augment else None
    order = order.to(split.images.device)
    for rows in order.split(ceil(BLOCK / batch_size) * batch_size):
        block = split[rows]
        images = as_floats(block.images)
        if transforms is not None:
            images = warp(images, transforms[rows.to(transforms.device)])
        yield from zip(images.split(batch_size), block.labels.split(batch_size), strict=True)


def affine(augment: Augment, count: int, size: int, seed: int, epoch: int) -> Tensor:
    """A random turn, scale and shift for each of `count` images, uniform within `augment`'s limits.

    Returns:
        count×2×3 matrices from output to input coordinates, as `torch.nn.functional.affine_grid`
        takes them.
    """
    draws = torch.rand(4, count, generator=generator("augment", seed, epoch)) * 2 - 1
    angle = draws[0] * np.deg2rad(augment.rotate)
    zoom = 1 / (1 + draws[1] * augment.scale)
    shift = draws[2:] * augment.shift * 2 / size  # the frame is 2 wide in grid coordinates
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = (torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1))
    return torch.stack(rows, 1)


def warp(images: Tensor, transforms: Tensor) -> Tensor:
    """B×C×H×W images moved by B×2×3 matrices; what comes in from outside is black."""
    grid = F.affine_grid(transforms.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
