"""Deslanting makes a slanted stroke upright, and leaves alone what has no slant."""

import pytest
import torch
from torch import Tensor

from lenetexp.models.deslant import deslant_images


def stroke(slope: float) -> Tensor:
    """A straight stroke, three pixels wide, that goes `slope` pixels to the right for each line downwards."""
    columns, lines = torch.arange(28.0), torch.arange(28.0)[:, None]
    image = (2 - (columns - 13.5 - slope * (lines - 13.5)).abs()).clamp(0, 1)
    image[:5], image[23:] = 0, 0
    return image[None, None]


@pytest.mark.parametrize("slope", [-0.7, -0.3, 0.0, 0.45])
def test_a_slanted_stroke_is_upright_afterwards(slope: float) -> None:
    """Every line the same, in the middle, with the ink that it had."""
    upright = deslant_images(stroke(slope))
    torch.testing.assert_close(upright.sum(), stroke(slope).sum(), rtol=1e-3, atol=0)
    centres = (upright[0, 0, 5:23] @ torch.arange(28.0)) / upright[0, 0, 5:23].sum(1)
    torch.testing.assert_close(centres, torch.full((18,), 13.5), rtol=0, atol=0.06)


def test_what_is_upright_empty_or_flat_is_left_in_its_frame() -> None:
    """A flat stroke has no slant; ink beyond the frame is lost; every channel of an image moves as the others do."""
    torch.testing.assert_close(deslant_images(stroke(0.0)), stroke(0.0))
    flat = torch.zeros(1, 1, 28, 28)
    assert torch.equal(deslant_images(flat), flat)
    flat[:, :, 14, 3:25] = 1
    torch.testing.assert_close(deslant_images(flat), flat)
    wild = deslant_images(torch.rand(20, 3, 9, 13))
    assert wild.shape == (20, 3, 9, 13) and wild.min() >= 0 and wild.max() <= 1
    coloured = deslant_images(stroke(0.4).expand(-1, 3, -1, -1))
    torch.testing.assert_close(coloured, deslant_images(stroke(0.4)).expand(-1, 3, -1, -1))
