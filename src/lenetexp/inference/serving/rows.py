"""The rows of a request, validated, as images for the net. They come from strangers."""

import base64
import binascii
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenetexp.datasets.pictures import MAX_BYTES, MAX_PIXELS, UploadedPicture, read_size
from lenetexp.errors import UserError
from lenetexp.inference.trained import TrainedNet

MAX_ROWS = 1000
MAX_PIXELS_A_REQUEST = 2 * MAX_PIXELS
_one_at_a_time = Lock()  # a decoded picture can take half a gigabyte; the server has many threads


def decode_rows(rows: Any, net: TrainedNet) -> Tensor:
    """Decode the rows of a request.

    Args:
        rows: Base64 picture files, or arrays of numbers.
        net: The net that gets them.

    Returns:
        N×C×H×W float32 grey levels in [0, 255].

    Raises:
        UserError: A row is neither. The message names the first one.
    """
    if isinstance(rows, np.ndarray):
        rows = [*rows]
    if not isinstance(rows, list):
        raise UserError(
            'inputs: must be a list with one picture or array a row, {"inputs": […]}; '
            f"this is {'an object' if isinstance(rows, dict) else f'a {type(rows).__name__}'}"
        )
    if not 1 <= len(rows) <= MAX_ROWS:
        raise UserError(f"inputs: must have 1 to {MAX_ROWS} rows, not {len(rows):,}")
    if (together := _stack_arrays(rows, net)) is not None:
        return torch.from_numpy(together)
    upload = [
        UploadedPicture(f"row {i}", _decode_base64(row, i)) if isinstance(row, str) else None
        for i, row in enumerate(rows)
    ]
    if sum(_read_pixels(picture) for picture in upload if picture) > MAX_PIXELS_A_REQUEST:  # before any is decoded
        raise UserError(f"inputs: all pictures together must have at most {MAX_PIXELS_A_REQUEST:,} pixels")
    images = [
        _prepare_picture(picture, net).astype(np.float32) if picture else _parse_array(row, i, net.facts.image_shape)
        for i, (picture, row) in enumerate(zip(upload, rows, strict=True))
    ]
    return torch.from_numpy(np.stack(images))


def _stack_arrays(rows: Sequence[Any], net: TrainedNet) -> NDArray[np.float32] | None:
    """Stack all rows at once, which is faster, if they are correct arrays of one shape."""
    if isinstance(rows[0], str):
        return None
    try:
        return _check_images(_convert_to_numbers(rows), net.facts.image_shape, "")
    except (ValueError, TypeError, OverflowError, UserError):
        return None


def _parse_array(row: Any, number: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Parse one row of numbers as C×H×W."""
    if not isinstance(row, list | np.ndarray):
        raise UserError(
            f"row {number} must be a picture file in base64 or an array of {_format_shape(shape)} numbers, "
            f"not {'null' if row is None else f'a {type(row).__name__}'}"
        )
    try:
        values = _convert_to_numbers(row)[None]
    except (ValueError, TypeError, OverflowError):
        raise UserError(
            f"row {number} must be an array of {_format_shape(shape)} numbers from 0 to 255 alone"
        ) from None
    return _check_images(values, shape, f"row {number}")[0]


def _convert_to_numbers(rows: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused
        # Not told the type, NumPy would make room in every place for the longest string among them.
        return np.asarray(rows, dtype=np.float32)


def _check_images(values: NDArray[np.float32], shape: tuple[int, int, int], name: str) -> NDArray[np.float32]:
    """Reshape N images to N×C×H×W.

    Raises:
        UserError: `name` has another shape or other values.
    """
    if values.shape[1:] not in ((shape, shape[1:]) if shape[0] == 1 else (shape,)):
        mistake = "×".join(map(str, values.shape[1:])) or "no array"
        raise UserError(f"{name} must be an array of {_format_shape(shape)} numbers, not {mistake}")
    images = values.reshape(len(values), *shape)
    lowest, highest = float(images.min()), images.max((1, 2, 3))
    if not (lowest >= 0 and highest.max() <= 255):  # not a number fails, too
        raise UserError(f"{name} must hold numbers from 0 (background) to 255 (ink)")
    if ((highest > 0) & (highest <= 1)).any():
        raise UserError(
            f"{name} has no value above 1: numbers must be grey levels from 0 to 255, not shares from 0 to 1"
        )
    return images


def _format_shape(shape: tuple[int, int, int]) -> str:
    whole = "×".join(map(str, shape))
    return f"{shape[1]}×{shape[2]} or {whole}" if shape[0] == 1 else whole


def _decode_base64(text: str, number: int) -> bytes:
    """Decode a base64 string, or a data: address as browsers make them."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise UserError(f"row {number}: a picture file must have at most {MAX_BYTES:,} bytes")
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"row {number} must be a picture file in base64; this is not base64") from None
    if not content:
        raise UserError(f"row {number} is empty; it must be a picture file in base64")
    return content


def _read_pixels(upload: UploadedPicture) -> int:
    width, height = read_size(upload)
    return width * height


def _prepare_picture(upload: UploadedPicture, net: TrainedNet) -> NDArray[np.uint8]:
    with _one_at_a_time:
        return net.prepare(upload)
