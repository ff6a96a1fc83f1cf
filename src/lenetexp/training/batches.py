"""The batches of any epoch. Their order and augmentation depend on (seed, epoch) alone."""

import hashlib
from collections.abc import Iterator
from math import ceil, pi, radians, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from lenetexp.config.targets import Augment
from lenetexp.datasets.splits import Split

# Images that become floats at once: enough to hide Python's cost, few enough for the cache.
BLOCK = 1024
SMOOTHING = 4.0  # pixels: the sigma of elastic moves that suits digits best (Simard et al. 2003)


def derive_seed(purpose: str, seed: int, epoch: int) -> int:
    """Derive a 63-bit seed for one purpose in one epoch. Different purposes draw independently."""
    text = f"{purpose}/{seed}/{epoch}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def make_generator(purpose: str, seed: int, epoch: int) -> torch.Generator:
    """Make a seeded generator on the CPU, so that every device sees the same draws."""
    return torch.Generator().manual_seed(derive_seed(purpose, seed, epoch))


def convert_to_floats(images: Tensor) -> Tensor:
    """Convert images from [0, 255] to floats in [0, 1]. The images themselves stay unchanged."""
    return images.float() / 255


def iterate_batches(
    split: Split, batch_size: int, seed: int, epoch: int, augment: Augment | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of one epoch: B×C×H×W floats in [0, 1] and B labels. The last batch may be short.

    Args:
        split: The images and labels.
        batch_size: B.
        seed: The run's seed.
        epoch: From 1. Together with `seed` it determines order and augmentation.
        augment: Limits of the random transformations; None for none.
    """
    order = torch.randperm(len(split), generator=make_generator("order", seed, epoch))
    size = split.images.shape[-1]
    transforms = draw_affine_maps(augment, len(split), size, seed, epoch) if augment else None
    elastic_draws = make_generator(
        "elastic", seed, epoch
    )  # each block's moves are drawn when it is its turn: all are gigabytes
    order = order.to(split.images.device)
    for rows in order.split(ceil(BLOCK / batch_size) * batch_size):
        block = split[rows]
        images = convert_to_floats(block.images)
        if augment is not None and transforms is not None:
            places = F.affine_grid(transforms[rows.cpu()], list(images.shape), align_corners=False)
            if augment.elastic:
                places += draw_elastic_moves(augment.elastic, len(images), size, elastic_draws)
            # What comes in from outside is black.
            images = F.grid_sample(images, places.to(images.device), align_corners=False)
        yield from zip(images.split(batch_size), block.labels.split(batch_size), strict=True)


def draw_affine_maps(augment: Augment, count: int, size: int, seed: int, epoch: int) -> Tensor:
    """Draw random rotations, scalings, shears and shifts within `augment`'s limits.

    Returns:
        count×2×3 maps as `affine_grid` takes them.
    """
    draws = torch.rand(4, count, generator=make_generator("augment", seed, epoch)) * 2 - 1
    # Apart from the others, so that runs made before there was a shear stay the same.
    leans = torch.rand(count, generator=make_generator("shear", seed, epoch)) * 2 - 1
    angle = draws[0] * radians(augment.rotate)
    zoom = 1 / (1 + draws[1] * augment.scale)
    shift = draws[2:] * augment.shift * 2 / size  # the frame is 2 wide in grid coordinates
    lean = (leans * radians(augment.shear)).tan()
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    return torch.stack([cos, cos * lean - sin, shift[0], sin, sin * lean + cos, shift[1]], 1).view(count, 2, 3)


def draw_elastic_moves(alpha: float, count: int, size: int, draws: torch.Generator) -> Tensor:
    """Draw smooth random displacements of every pixel.

    Uniform in ±1, smoothed by a Gaussian of `SMOOTHING` pixels, times `alpha` pixels (Simard, Steinkraus and Platt:
    Best practices for convolutional neural networks applied to visual document analysis, ICDAR 2003).

    Returns:
        count×size×size×2 displacements in grid coordinates.
    """
    distance = torch.arange(size)[:, None] - torch.arange(size)
    gaussian = torch.exp(-(distance**2) / (2 * SMOOTHING**2)) / (SMOOTHING * sqrt(2 * pi))
    noise = torch.rand(2 * count, size, size, generator=draws).mul_(2).sub_(1)
    moves = (gaussian * (alpha * 2 / size)) @ noise @ gaussian  # the frame is 2 wide in grid coordinates
    return moves.view(count, 2, size, size).permute(0, 2, 3, 1)
