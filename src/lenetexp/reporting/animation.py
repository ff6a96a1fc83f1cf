"""learning.gif: the kernels of the first convolution and their responses to one image, epoch by epoch."""

from collections.abc import Sequence
from functools import cache
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from lenetexp.datasets.splits import Data
from lenetexp.reporting.style import shorten_label
from lenetexp.training.frames import Frames, compute_kernels_and_maps, find_first_convolution
from lenetexp.training.state import EpochRecord

GREYS, COLOURS = 16, 47  # in the palette: twice as many of each would make a file a quarter larger
# Pixels: the side of a tile, the most that are shown of an image's side, between tiles, the height of a line of text.
TILE, MOST_PIXELS, GAP, LINE = 96, 64, 8, 22
# Milliseconds: of all frames, the most for one, the last.
DURATION, LONGEST, LAST = 5000, 400, 2000

Pixels = NDArray[np.uint8]


def draw_learning(model: nn.Module, data: Data, frames: Frames, history: Sequence[EpochRecord], folder: Path) -> None:
    """Write learning.gif, under 2 MB. Write nothing if the net has no convolution on the images."""
    name, layer = find_first_convolution(model) or ("", None)
    if not frames or layer is None or layer.in_channels != data.image_shape[0]:
        return
    image = data.test.images[0]
    kernels, maps = compute_kernels_and_maps(layer, frames, image)
    width, height = GAP + (kernels.shape[1] + 1) * (TILE + GAP), 3 * LINE + 2 * TILE + GAP
    tops = [2 * LINE, 3 * LINE + TILE]  # of the rows of tiles
    sheet = Image.new("L", (width, height), 255)
    captions = [f"kernels of {shorten_label(name)}", f"responses to one {shorten_label(data.name)} image"]
    rows = []
    for values, caption, top in zip((kernels, maps), captions, tops, strict=True):
        limit = float(values.abs().max())  # one scale for all frames: growth is visible
        _write(sheet, f"{caption}: blue below zero, red above, up to ±{limit:.2g}", top - LINE)
        rows.append(_enlarge(_map_to_palette(values, limit)))
    picture = _enlarge(_convert_to_grey(image))
    sheet.paste(Image.fromarray(picture), (GAP + (TILE - picture.shape[1]) // 2, tops[1]))
    pages = []
    for number, epoch in enumerate(frames):
        page = sheet.copy()
        accuracies = f"validation accuracy {history[epoch - 1].val_accuracy:.2%}" if epoch else "before training"
        _write(page, f"epoch {epoch} of {len(history)}: {accuracies}", 0)
        pixels = np.asarray(page) // (256 // GREYS)
        for tiles, top in zip(rows, tops, strict=True):
            for column, tile in enumerate(tiles[number], start=1):
                margin = GAP + column * (TILE + GAP) + (TILE - tile.shape[1]) // 2  # a map under its kernel
                pixels[top : top + tile.shape[0], margin : margin + tile.shape[1]] = tile
        pages.append(Image.fromarray(pixels))
        pages[-1].putpalette(_build_palette())
    each = min(DURATION // len(pages), LONGEST)
    folder.mkdir(parents=True, exist_ok=True)
    pages[0].save(
        folder / "learning.gif", save_all=True, append_images=pages[1:], loop=0, optimize=False,
        duration=[each] * (len(pages) - 1) + [LAST],
    )  # fmt: skip


def _map_to_palette(values: Tensor, limit: float) -> Pixels:
    """Map numbers to indices of the palette, with zero in the middle of its colours."""
    scaled = (values.numpy() / (limit or 1) + 1) / 2 * (COLOURS - 1)
    return (GREYS + scaled.round()).astype(np.uint8)


def _convert_to_grey(image: Tensor) -> Pixels:
    """Convert C×H×W to H×W."""
    return image.float().mean(0).round().cpu().numpy().astype(np.uint8)


def _enlarge(images: Pixels) -> Pixels:
    """Scale …×H×W to the size of a tile: each pixel a square, or only some of the pixels of a large image."""
    step = ceil(max(images.shape[-2:]) / MOST_PIXELS)
    images = images[..., ::step, ::step]
    times = TILE // max(images.shape[-2:])
    return images.repeat(times, -2).repeat(times, -1)


@cache
def _build_palette() -> list[int]:
    """Build the palette, R, G, B: black to white, then blue over white to red."""
    greys = np.linspace(0, 1, GREYS)[:, None].repeat(3, 1)
    colours = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, COLOURS))[:, :3]
    return [int(value) for value in (np.concatenate([greys, colours]) * 255).round().flatten()]


def _write(sheet: Image.Image, text: str, top: int) -> None:
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 13)
    ImageDraw.Draw(sheet).text((GAP, top + 3), text, fill=0, font=font)
