"""Pictures: found, decoded and scaled; and MNIST's form, for datasets and for pictures to predict on."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from lenetexp.errors import UserError, one_line

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SUFFIXES = ", ".join(IMAGE_SUFFIXES)  # for messages
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow's names of those that a stranger may send
MAX_BYTES = 20_000_000  # of a stranger's file: more than a phone's photo has
MAX_PIXELS = 50_000_000  # of a picture to decode: a small file can unpack to gigabytes
# MNIST: scaled into 20×20, the centre of mass in the middle of 28×28 (LeCun et al. 1998, section III A).
BOX, FRAME, MARGIN = 20, 28, 4
PAPER = 0.2  # between paper (0) and ink (1): anything lower is paper, dust or shadow
RULED = 0.5  # and anything lower than this may be a ruled line or the rest of a shadow
DARKEST = 16.0  # paper, of 255: in a darker shadow there is nothing but noise
LARGEST = 400  # pixels of a side in which a sign is looked for: twenty times what is left of it
SPECK = 20  # pixels of a large photo that may be dust
DUST = 0.02  # share of the largest part of the ink: a smaller part is dust, too


@dataclass(frozen=True)
class Sent:
    """A picture file that came over the network: its bytes, and what messages call it."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


Picture = Path | Sent


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The pictures that files, folders or globs name, each one's sorted. Raises `UserError` if one names none."""
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
        pictures = sorted(p for p in matches if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
        if path.is_file():  # a file that is named is meant, whatever its suffix
            pictures = [path]
        if not pictures:
            raise UserError(f"images={pattern}: no pictures there; must be a file, folder or glob ({SUFFIXES})")
        found += pictures
    return found


def read_image(picture: Picture, mode: str) -> Image.Image:
    """Decodes a picture as `mode` ("L" or "RGB"): upright, on white, 16 bits scaled to 8; `UserError` if it cannot."""
    try:
        with _opened(picture) as file:
            if file.width * file.height > MAX_PIXELS:
                size = f"{file.width}×{file.height}"
                raise UserError(f"{picture} has {size} pixels: must be at most {MAX_PIXELS:,} in all")
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            elif image.mode.startswith("I"):  # Pillow's own conversion would cut values off at 255
                image = Image.fromarray((np.array(image) / 257).clip(0, 255).astype(np.uint8))
            return image.convert(mode)
    except UserError:
        raise
    except Exception as error:  # of a broken file, Pillow raises more kinds than it documents
        raise _unreadable(picture, error) from None


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height as a picture file states them, without decoding it; `UserError` if it states none."""
    try:
        with _opened(picture) as file:
            return file.width, file.height
    except Exception as error:  # as above
        raise _unreadable(picture, error) from None


def _unreadable(picture: Picture, error: Exception) -> UserError:
    # Pillow's own sentence would name a buffer in memory.
    unknown = isinstance(error, UnidentifiedImageError) and isinstance(picture, Sent)
    why = f"it is none of {', '.join(FORMATS)}" if unknown else one_line(error)
    return UserError(f"{picture} cannot be read as a picture ({why})")


def _opened(picture: Picture) -> ImageFile.ImageFile:
    if isinstance(picture, Path):
        return Image.open(picture)
    return Image.open(BytesIO(picture.content), formats=FORMATS)  # others, as EPS, start programs


def as_trained(picture: Picture, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture scaled to `shape` (channels, height, width), as dataset=image_folder scales its own."""
    return scaled_to(read_image(picture, "L" if shape[0] == 1 else "RGB"), shape)


def scaled_to(picture: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A grey or RGB picture scaled to `shape` (channels, height, width), which has as many channels."""
    channels, height, width = shape
    scaled = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
    return scaled.reshape(height, width, channels).transpose(2, 0, 1)


def resized(images: Tensor, size: int) -> Tensor:
    """Scales N×C×h×w floats from 0 to 255 to N×C×size×size uint8."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)


def into_mnist_frame(images: Tensor) -> Tensor:
    """Brings N×1×h×w floats from 0 to 255 that fill their frame into MNIST's: N×1×28×28 uint8."""
    return centred_by_mass(F.pad(resized(images, BOX), (MARGIN, MARGIN, MARGIN, MARGIN)))


def centred_by_mass(images: Tensor) -> Tensor:
    """Moves N×1×28×28 images, drawn in the middle 20×20, by whole pixels until their mass is centred on pixel 14."""
    # There MNIST's 60,000 training images have it on average: 14.00 down and 14.01 across.
    mass = images[:, 0].double()  # N×28×28
    place = torch.arange(FRAME, dtype=torch.float64)
    total = mass.sum((1, 2)).clamp(min=1e-9)
    centres = torch.stack([mass.sum(2) @ place / total, mass.sum(1) @ place / total], 1)  # row, column
    moves = (FRAME / 2 - centres).round().clamp(-MARGIN, MARGIN).long().tolist()
    return torch.stack([image.roll(move, (1, 2)) for image, move in zip(images, moves, strict=True)])


def unlike(images: Tensor, train: Tensor, held_out: Tensor) -> list[bool]:
    """Which images look like none of the training images; all are N×C×H×W uint8 on one device.

    Those whose nearest training image is farther away than that of 99.5 % of the held-out images is: in itself, or for
    the little ink that they have.
    """
    # Of many images every so-manieth: of MNIST's, the answer takes a second.
    samples = train[:: ceil(len(train) / 10_000)], held_out[:: ceil(len(held_out) / 1_000)], images
    known, usual, asked = (sample.flatten(1).float() for sample in samples)

    def distances(some: Tensor) -> Tensor:
        nearest = torch.cdist(some, known).amin(1)
        return torch.stack([nearest, nearest / some.norm(dim=1).clamp(min=1)])

    limits = distances(usual).quantile(0.995, dim=1)
    found: list[bool] = (distances(asked) > limits[:, None]).any(0).tolist()
    return found


class Steps(NamedTuple):
    """How a picture comes into MNIST's form: each is made of the one before, light on dark."""

    ink: NDArray[np.uint8]  # H×W, the reduced picture without its paper
    cropped: NDArray[np.uint8]  # the box around the ink
    framed: NDArray[np.uint8]  # 28×28, the box scaled into the middle 20×20
    centred: NDArray[np.uint8]  # 28×28, moved until the centre of mass is in the middle


def like_mnist(grey: NDArray[np.uint8], invert: Literal["auto"] | bool, name: str) -> NDArray[np.uint8]:
    """An H×W picture of one sign as MNIST would have it, 1×28×28: the last of its `mnist_steps`."""
    return mnist_steps(grey, invert, name).centred[None]


def mnist_steps(grey: NDArray[np.uint8], invert: Literal["auto"] | bool, name: str) -> Steps:
    """An H×W picture of one sign on its way into MNIST's form.

    `invert` says whether the sign is dark on light; "auto" takes what varies less for the paper. Raises `UserError`
    if the picture, called `name`, is of one flat shade.
    """
    ink = _ink(grey, invert, name)
    sign = Image.fromarray(ink)
    sign = sign.crop(sign.getbbox())
    inked, cropped = ((255 * step).round().astype(np.uint8) for step in (ink, np.array(sign)))
    width, height = (max(round(side * BOX / max(sign.size)), 1) for side in sign.size)
    scaled = np.array(sign.resize((width, height), Image.Resampling.BILINEAR))
    frame = np.zeros((FRAME, FRAME), dtype=np.uint8)
    top, left = (FRAME - height) // 2, (FRAME - width) // 2
    frame[top : top + height, left : left + width] = (scaled * (255 / scaled.max())).round()
    return Steps(inked, cropped, frame, centred_by_mass(torch.from_numpy(frame)[None, None])[0, 0].numpy())


def _ink(grey: NDArray[np.uint8], invert: Literal["auto"] | bool, name: str) -> NDArray[np.float32]:
    """How much ink is in each pixel of the reduced picture, 0 to 1, without paper, shadows, ruled lines and dust."""
    from scipy import ndimage  # training does not need it

    picture = Image.fromarray(grey)
    shades = np.array(picture.reduce(ceil(max(picture.size) / LARGEST))).astype(float)
    choices = {}  # the shades as dark on light, and their paper
    for dark_on_light in (True, False) if invert == "auto" else (invert,):
        sheet = shades if dark_on_light else 255 - shades
        choices[dark_on_light] = sheet, _paper(sheet)
    # Both choices keep the edges of shadows; the wrong one keeps those of the sign as well.
    sheet, paper = min(choices.values(), key=lambda choice: _edges(choice[1]))
    # Light multiplies: in the shade, ink is darker by the same factor as paper.
    usual = float(np.median(np.concatenate(_sides(sheet))))
    darker = (usual - sheet * (usual / paper)).clip(0)
    # On a large photo a few dark pixels are dust; they must not set the scale. On a drawing they are its first dot.
    few = SPECK if darker.size > 1000 * SPECK else 1
    strongest = np.sort(darker, axis=None)[-few]
    if strongest < 16:  # of 255: a scan's noise, not a stroke
        asked = "" if invert == "auto" else f" with invert={str(invert).lower()}"
        raise UserError(f"{name}: must show a sign; it is one flat shade{asked}")
    ink = (darker / strongest).clip(0, 1)
    # What crosses two sides is ruled on the paper, unless it is as dark as the sign.
    ruled = sorted(float(np.quantile(side, 0.98)) for side in _sides(ink))[-2]
    faint = max(PAPER, min(1.3 * ruled, RULED))
    ink = (ink - faint).clip(0) / (1 - faint)
    parts, count = ndimage.label(ink, np.ones((3, 3)))
    sizes, strengths = np.zeros(count + 1), np.zeros(count + 1)  # the first is what is no part
    drawn = ink > 0
    np.add.at(sizes, parts[drawn], 1)
    np.maximum.at(strengths, parts[drawn], ink[drawn])
    # Every stroke is somewhere about as dark as the darkest; what a shadow leaves behind is not.
    strong = strengths >= RULED
    ink[~(strong & (sizes >= DUST * sizes[strong].max()))[parts]] = 0
    return ink.astype(np.float32)


def _paper(shades: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each pixel would be without strokes that are narrower than a fifth of the picture."""
    from scipy import ndimage

    # A closing fills what is narrow and keeps the edges of wide shadows. Before it, noise is smoothed, or the lightest
    # grain of each neighbourhood would be the paper; after it, shadows are widened by the pixels of their soft edges.
    narrow = max(min(shades.shape) // 5, 3)
    padded = np.pad(ndimage.median_filter(shades, 3), narrow, "edge")
    closed = ndimage.grey_closing(padded, narrow)[narrow:-narrow, narrow:-narrow]
    return ndimage.minimum_filter(closed, 5).clip(DARKEST)


def _edges(shades: NDArray[np.float64]) -> float:
    """The sum of all squared steps from a pixel to the next."""
    return float(sum(np.square(np.diff(shades, axis=axis)).sum() for axis in (0, 1)))


def _sides(shades: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [shades[0], shades[-1], shades[:, 0], shades[:, -1]]
