"""The batches of any epoch. Their order and augmentation depend on (seed, epoch) alone."""

import hashlib
from collections.abc import Iterator
from math import ceil, radians

import torch
import torch.nn.functional as F
from torch import Tensor

from lenetexp.config.targets import Augment
from lenetexp.datasets.load import Split

# Images that become floats at once: enough to hide Python's cost, few enough for the cache.
BLOCK = 4096


def seed_of(purpose: str, seed: int, epoch: int) -> int:
    """A 63-bit seed for one purpose in one epoch; different purposes draw independently."""
    text = f"{purpose}/{seed}/{epoch}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(purpose: str, seed: int, epoch: int) -> torch.Generator:
    """A generator on the CPU, so that every device sees the same draws."""
    return torch.Generator().manual_seed(seed_of(purpose, seed, epoch))


def as_floats(images: Tensor) -> Tensor:
    """uint8 images as floats in [0, 1]."""
    return images.float().div_(255)


def batches(
    split: Split, batch_size: int, seed: int, epoch: int, augment: Augment | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch (from 1): B×C×H×W floats in [0, 1] and B labels, the last batch may be short."""
    order = torch.randperm(len(split), generator=generator("order", seed, epoch))
    transforms = affine(augment, len(split), split.images.shape[-1], seed, epoch) if augment else None
    order = order.to(split.images.device)
    for rows in order.split(ceil(BLOCK / batch_size) * batch_size):
        block = split[rows]
        images = as_floats(block.images)
        if transforms is not None:
            grid = F.affine_grid(transforms[rows.cpu()].to(images.device), list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, align_corners=False)  # what comes in from outside is black
        yield from zip(images.split(batch_size), block.labels.split(batch_size), strict=True)


def affine(augment: Augment, count: int, size: int, seed: int, epoch: int) -> Tensor:
    """Random rotations, scalings and shifts within `augment`'s limits, count×2×3 as `affine_grid` takes them."""
    draws = torch.rand(4, count, generator=generator("augment", seed, epoch)) * 2 - 1
    angle = draws[0] * radians(augment.rotate)
    zoom = 1 / (1 + draws[1] * augment.scale)
    shift = draws[2:] * augment.shift * 2 / size  # the frame is 2 wide in grid coordinates
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    return torch.stack([cos, -sin, shift[0], sin, cos, shift[1]], 1).view(count, 2, 3)
