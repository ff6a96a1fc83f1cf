"""Pictures: found, decoded, scaled and compared, for datasets and for predictions."""

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from lenetexp.errors import UserError, format_error

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SUFFIXES = ", ".join(IMAGE_SUFFIXES)  # for messages
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow's names of those that a stranger may send
MAX_BYTES = 20_000_000  # of a stranger's file: more than a phone's photo has
HIDDEN = 16  # of 255: on a ground that differs less, nothing is seen
MAX_PIXELS = 50_000_000  # of a picture to decode: a small file can unpack to gigabytes


@dataclass(frozen=True)
class UploadedPicture:
    """A picture file that came over the network: its bytes, and what messages call it."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


Picture = Path | UploadedPicture


class PictureFile(NamedTuple):
    """A picture file; `folder` is the name of its folder, if that lies in the one that was searched."""

    path: Path
    folder: str | None = None


def find_images(patterns: Sequence[str]) -> tuple[list[PictureFile], Counter[str]]:
    """Finds the pictures that files, folders or globs name, each one's sorted.

    In a folder without pictures, the folders in it are searched.

    Returns:
        The pictures, and how many other files there are of each suffix.

    Raises:
        UserError: if a pattern names no picture.
    """
    pictures: list[PictureFile] = []
    others: Counter[str] = Counter()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_file():  # a file that is named is meant, whatever its suffix
            pictures.append(PictureFile(path))
            continue
        matches = (
            _list_folder(path) if path.is_dir() else map(PictureFile, map(Path, glob.glob(str(path), recursive=True)))
        )
        files = sorted(match for match in matches if match.path.is_file())
        usable = [file for file in files if _is_picture(file.path)]
        ignored = Counter(file.path.suffix.lower() or "no suffix" for file in files if not _is_picture(file.path))
        if not usable:
            also = f", but {describe_counts(ignored)}" if ignored else ""
            raise UserError(f"images={pattern}: no pictures there{also}; must be a file, folder or glob ({SUFFIXES})")
        pictures += usable
        others += ignored
    return pictures, others


def _list_folder(folder: Path) -> list[PictureFile]:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if any(map(_is_picture, entries)):
        return [PictureFile(path) for path in entries]
    inner = [(path, place.name) for place in entries if place.is_dir() for path in place.iterdir()]
    files = [*((path, None) for path in entries), *inner]
    return [PictureFile(path, name) for path, name in files if not path.name.startswith(".")]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def describe_counts(suffixes: Counter[str]) -> str:
    """How many files there are of each suffix: "3 .heic and 1 .pdf"."""
    return " and ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))


def read_image(picture: Picture, mode: str) -> Image.Image:
    """Decodes a picture as `mode` ("L" or "RGB"): upright, 16 bits scaled to 8; `UserError` if it cannot.

    What is transparent becomes white; black if nothing could be seen on white.
    """
    try:
        with _open_picture(picture) as file:
            if file.width * file.height > MAX_PIXELS:
                size = f"{file.width}×{file.height}"
                raise UserError(f"{picture} has {size} pixels: must be at most {MAX_PIXELS:,} in all")
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                on_white = _lay_on("white", image).convert(mode)
                return on_white if _measure_contrast(on_white) >= HIDDEN else _lay_on("black", image).convert(mode)
            elif image.mode.startswith("I"):  # Pillow's own conversion would cut values off at 255
                image = Image.fromarray((np.array(image) / 257).clip(0, 255).astype(np.uint8))
            return image.convert(mode)
    except UserError:
        raise
    except Exception as error:  # of a broken file, Pillow raises more kinds than it documents
        raise _make_error(picture, error) from None


def _lay_on(ground: str, image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image.convert("RGBA"))


def _measure_contrast(image: Image.Image) -> int:
    """The largest difference of two pixels in any channel."""
    pixels = np.array(image)
    return int(np.ptp(pixels, axis=(0, 1)).max())


def read_size(picture: Picture) -> tuple[int, int]:
    """Width and height as a picture file states them, without decoding it; `UserError` if it states none."""
    try:
        with _open_picture(picture) as file:
            return file.width, file.height
    except Exception as error:  # as above
        raise _make_error(picture, error) from None


def _make_error(picture: Picture, error: Exception) -> UserError:
    why = format_error(error)
    if isinstance(error, UnidentifiedImageError):  # its own sentence would name the file again, or a buffer in memory
        kind = _detect_other_format(picture)
        why = f"it is {kind}; convert it to JPEG or PNG" if kind else f"it is none of {', '.join(FORMATS)}"
    return UserError(f"{picture} cannot be read: {why}")


def _detect_other_format(picture: Picture) -> str | None:
    """What phones and scanners make and Pillow does not read, by the file's first bytes."""
    if isinstance(picture, Path):
        with picture.open("rb") as file:
            start = file.read(32)
    else:
        start = picture.content[:32]
    if start.startswith(b"%PDF"):
        return "PDF"
    is_heic = start[4:8] == b"ftyp" and any(brand in start for brand in (b"heic", b"heix", b"mif1", b"msf1"))
    return "HEIC" if is_heic else None


def _open_picture(picture: Picture) -> ImageFile.ImageFile:
    if isinstance(picture, Path):
        return Image.open(picture)
    return Image.open(BytesIO(picture.content), formats=FORMATS)  # others, as EPS, start programs


def convert_for_folder_dataset(picture: Picture, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture scaled to `shape` (channels, height, width), as dataset=image_folder scales its own."""
    return scale_picture(read_image(picture, "L" if shape[0] == 1 else "RGB"), shape)


def scale_picture(picture: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A grey or RGB picture scaled to `shape` (channels, height, width), which has as many channels."""
    channels, height, width = shape
    scaled = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
    return scaled.reshape(height, width, channels).transpose(2, 0, 1)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Scales N×C×h×w floats from 0 to 255 to N×C×size×size uint8."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)


class FamiliarImages:
    """The training images that a picture is compared with; all are N×C×H×W uint8 on one device."""

    def __init__(self, train: Tensor, held_out: Tensor) -> None:
        # Of many images every so-manieth: of MNIST's, this takes a second.
        self._train = _flatten(train[:: ceil(len(train) / 10_000)])
        self._squares = self._train.square().sum(1)
        self._limits = self._compute_distances(held_out[:: ceil(len(held_out) / 1_000)]).quantile(0.995, dim=1)

    def find_strangers(self, images: Tensor) -> list[bool]:
        """Which images look like none of the training images.

        Those whose nearest training image is farther away than that of 99.5 % of the held-out images is: in itself, or
        for the little ink that they have.
        """
        is_far: list[bool] = (self._compute_distances(images) > self._limits[:, None]).any(0).tolist()
        return is_far

    def _compute_distances(self, images: Tensor) -> Tensor:
        flat = _flatten(images)
        # |a − b|² = |a|² + |b|² − 2ab: five times quicker than cdist for the page's one image at a time.
        products = flat @ self._train.T
        squares = flat.square().sum(1, keepdim=True) + self._squares - 2 * products
        nearest = squares.amin(1).clamp(min=0).sqrt()
        return torch.stack([nearest, nearest / flat.norm(dim=1).clamp(min=1)])


def _flatten(images: Tensor) -> Tensor:
    return images.flatten(1).float()
