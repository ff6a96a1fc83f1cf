"""A person's own pictures brought to the form that a net was trained on."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lenetexp.config import UserError
from lenetexp.datasets import BOX, FRAME, IMAGE_SUFFIXES, centred_by_mass, read_image

Grey = NDArray[np.uint8]  # H×W

# Of the grey between paper and ink: what is below is paper, dust and shade.
PAPER = 0.2
# Pixels of a large photo that may be dust.
SPECK = 20
# A part of the ink that is smaller than this share of the largest is dust, too.
DUST = 0.02


def find(patterns: Sequence[str]) -> list[Path]:
    """The pictures that files, folders or globs name, each one's sorted.

    Raises:
        UserError: one of them names none.
    """
    return [path for pattern in patterns for path in _named_by(pattern)]


def _named_by(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        candidates = [*path.iterdir()]
    else:
        candidates = [Path(match) for match in glob.glob(str(path), recursive=True)]
    found = sorted(p for p in candidates if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(
            f"images={pattern}: no pictures there; must be a file, a folder or a glob of files "
            f"that end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def as_trained(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture scaled to `shape` (channels, height, width), as `dataset=image_folder` does it."""
    channels, height, width = shape
    picture = read_image(path, "L" if channels == 1 else "RGB")
    scaled = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
    return scaled.reshape(height, width, channels).transpose(2, 0, 1)


def like_mnist(grey: Grey, invert: Literal["auto"] | bool, name: str) -> NDArray[np.uint8]:
    """A picture of one sign as MNIST would have it: light on dark, cropped, scaled, centred by mass.

    Args:
        grey: H×W, 0 black to 255 white.
        invert: whether the sign is dark on light; "auto" takes the border's shade for the paper's.
        name: what an error calls the picture.

    Returns:
        1×28×28.

    Raises:
        UserError: the picture is one flat shade.
    """
    ink = grey.astype(float)
    border = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
    paper = float(np.median(border))
    # On a large photo a few dark or light pixels are dust or a glint, and set no scale.
    few = SPECK if ink.size > 100 * SPECK else 1
    shades = np.sort(ink, axis=None)
    below, above = float(paper - shades[few - 1]), float(shades[-few] - paper)
    dark_on_light = below > above if invert == "auto" else invert
    ink, darkest = (paper - ink, below) if dark_on_light else (ink - paper, above)
    if darkest < 16:  # of 255: a scan's noise, not a stroke
        asked = "" if invert == "auto" else f" with invert={str(invert).lower()}"
        raise UserError(f"{name}: must show a sign; it is one flat shade{asked}")
    ink = np.clip(ink / darkest, 0, 1)
    ink = np.where(ink < PAPER, 0, (ink - PAPER) / (1 - PAPER))
    parts, _ = ndimage.label(ink, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    ink[np.isin(parts, 1 + np.flatnonzero(sizes < DUST * sizes.max()))] = 0
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(ink.shape)
    size = (max(round(ink.shape[1] * scale), 1), max(round(ink.shape[0] * scale), 1))
    scaled = Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    frame = np.zeros((FRAME, FRAME), dtype=np.uint8)
    top, left = (FRAME - size[1]) // 2, (FRAME - size[0]) // 2
    bright = np.array(scaled) * (255 / np.array(scaled).max())
    frame[top : top + size[1], left : left + size[0]] = bright.round().astype(np.uint8)
    return centred_by_mass(torch.from_numpy(frame)[None, None])[0].numpy()
