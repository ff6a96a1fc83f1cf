"""Images for tests: noise, MNIST's files in small, and where an image has its mass."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MNIST_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
)  # fmt: skip


def noise(*shape: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array: NDArray[Any]) -> bytes:
    """An array in the IDX format: 0, 0, type, number of sizes, sizes and values big-endian."""
    kind = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, kind, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def small_mnist() -> dict[str, NDArray[np.uint8]]:
    """Two training images and a test image of each of ten classes, in the order of `MNIST_FILES`."""
    labels = np.arange(10, dtype=np.uint8)
    arrays = noise(20, 28, 28, seed=0), np.tile(labels, 2), noise(10, 28, 28, seed=1), labels[::-1]
    return dict(zip(MNIST_FILES, arrays, strict=True))


def write_idx(folder: Path, files: dict[str, NDArray[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in files.items():
        (folder / name).write_bytes(idx(array))


def centres_of_mass(images: Tensor) -> Tensor:
    """The row and column of each N×1×H×W image's centre of mass, N×2."""
    weights = images[:, 0].float() / images.sum((1, 2, 3)).view(-1, 1, 1)
    axis = torch.arange(images.shape[-1], dtype=torch.float32)
    return torch.stack([weights.sum(2) @ axis, weights.sum(1) @ axis], 1)
