"""Deslanting: shift the lines of an image until its sign stands upright (LeCun et al. 1998, section III A)."""

import torch
from torch import Tensor

STEEPEST = 1.0  # pixels that a line moves for each line of height: beyond 45° it is no slant but a flat stroke


def deslant_images(images: Tensor) -> Tensor:
    """Shear N×C×H×W floats (ink above 0) about their centre of mass until their principal axis is vertical.

    The slant is μ11/μ02: the covariance of x and y over the variance of y, with the ink as mass.
    """
    height, width = images.shape[2:]
    mass = images.mean(1)  # N×H×W
    x = torch.arange(width, device=images.device, dtype=images.dtype)
    y = torch.arange(height, device=images.device, dtype=images.dtype)
    ink = mass.sum((1, 2)).clamp(min=1e-6)  # N; an empty image stays as it is
    centre_x = (mass.sum(1) @ x / ink)[:, None]  # N×1
    centre_y = (mass.sum(2) @ y / ink)[:, None]
    across, down = x - centre_x, y - centre_y  # N×W, N×H: distances from the centre
    covariance = torch.einsum("nhw,nh,nw->n", mass, down, across)
    variance = torch.einsum("nhw,nh->n", mass, down**2).clamp(min=1e-6)
    slant = (covariance / variance).clamp(-STEEPEST, STEEPEST)
    return _shift_lines(images, slant[:, None] * down)


def _shift_lines(images: Tensor, shifts: Tensor) -> Tensor:
    """Move line h of image n by `shifts[n, h]` pixels to the left, interpolating between two pixels."""
    channels, width = images.shape[1], images.shape[3]
    whole = shifts.floor()
    part = (shifts - whole)[:, None, :, None]
    left = torch.arange(width, device=images.device) + whole.long()[:, :, None]  # N×H×W

    def gather(columns: Tensor) -> Tensor:
        inside = (columns >= 0) & (columns < width)
        columns = columns.clamp(0, width - 1)[:, None].expand(-1, channels, -1, -1)
        return images.gather(3, columns) * inside[:, None]

    return gather(left) * (1 - part) + gather(left + 1) * part
