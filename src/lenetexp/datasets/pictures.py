"""Picture files: find, decode, scale and compare them, for datasets and for predictions."""

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
    """The bytes of a picture file that came over the network, and its name in messages."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


Picture = Path | UploadedPicture


class PictureFile(NamedTuple):
    """A picture file. `folder` is the name of its folder if that is inside the folder that was searched."""

    path: Path
    folder: str | None = None


def find_images(patterns: Sequence[str]) -> tuple[list[PictureFile], Counter[str]]:
    """Find the pictures that files, folders or globs name, sorted within each pattern.

    In a folder without pictures, its subfolders are searched.

    Args:
        patterns: Paths of files or folders, or globs.

    Returns:
        The pictures, and the number of other files by suffix.

    Raises:
        UserError: A pattern names no picture.
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
    """Format the number of files by suffix: "3 .heic and 1 .pdf"."""
    return " and ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))


def read_image(picture: Picture, mode: str) -> Image.Image:
    """Decode a picture upright, with 16-bit values scaled to 8 bits.

    Transparent pixels become white, or black if nothing could be seen on white.

    Args:
        picture: A file or an upload.
        mode: "L" or "RGB".

    Raises:
        UserError: The picture cannot be decoded or is too large.
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
    """Return the largest difference of two pixels in any channel."""
    pixels = np.array(image)
    return int(np.ptp(pixels, axis=(0, 1)).max())


def read_size(picture: Picture) -> tuple[int, int]:
    """Read width and height from a picture's header, without decoding it.

    Raises:
        UserError: The header cannot be read.
    """
    try:
        with _open_picture(picture) as file:
            return file.width, file.height
    except Exception as error:  # as above
        raise _make_error(picture, error) from None


def _make_error(picture: Picture, error: Exception) -> UserError:
    reason = format_error(error)
    if isinstance(error, UnidentifiedImageError):  # its own sentence would name the file again, or a buffer in memory
        kind = _detect_other_format(picture)
        reason = f"it is {kind}; convert it to JPEG or PNG" if kind else f"it is none of {', '.join(FORMATS)}"
    return UserError(f"{picture} cannot be read: {reason}")


def _detect_other_format(picture: Picture) -> str | None:
    """Recognise PDF and HEIC, which phones and scanners make and Pillow does not read, by a file's first bytes."""
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
    """Convert a picture as dataset=image_folder converts its own.

    Args:
        picture: A file or an upload.
        shape: Channels (1 or 3), height and width of the result.
    """
    return scale_picture(read_image(picture, "L" if shape[0] == 1 else "RGB"), shape)


def scale_picture(picture: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Scale a grey or RGB picture to `shape` (channels, height, width), which has as many channels."""
    channels, height, width = shape
    scaled = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
    return scaled.reshape(height, width, channels).transpose(2, 0, 1)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Scale N×C×h×w floats in [0, 255] to N×C×size×size uint8."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)


class FamiliarImages:
    """Training images that pictures are compared with, to tell which are unlike all of them.

    Args:
        train: N×C×H×W uint8 training images.
        held_out: N×C×H×W uint8 images of the same kind that set the limit, on the same device.
    """

    def __init__(self, train: Tensor, held_out: Tensor) -> None:
        # A subset of at most 10,000: of MNIST's, this takes a second.
        self._train = _flatten(train[:: ceil(len(train) / 10_000)])
        self._squares = self._train.square().sum(1)
        self._limits = self._compute_distances(held_out[:: ceil(len(held_out) / 1_000)]).quantile(0.995, dim=1)

    def find_strangers(self, images: Tensor) -> list[bool]:
        """Return for each image whether it is unlike all training images.

        It is if its nearest training image is farther away than that of 99.5 % of the held-out images: in itself, or
        relative to how much ink it has.
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
