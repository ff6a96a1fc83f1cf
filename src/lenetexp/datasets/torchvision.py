"""torchvision's datasets: downloaded where they are missing, checked, and brought to one form."""

import contextlib
import hashlib
import re
import socket
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from lenetexp.datasets.images import into_mnist_frame, resized
from lenetexp.datasets.source import Source, Split
from lenetexp.errors import UserError, one_line

NAMES = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "EMNIST", "USPS", "CIFAR10")
EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
# What torchvision looks for in root. The files of all others are in the IDX format.
OTHER_FILES = {"USPS": ("usps.bz2", "usps.t.bz2"), "CIFAR10": ("cifar-10-batches-py",)}
# MNIST's published files, unpacked: number of images or labels, MD5.
MNIST_FILES = {
    "train-images-idx3-ubyte": (60_000, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_000, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (10_000, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_000, "27ae3e4e09519cfbb04c329615203637"),
}
PATIENCE = 5  # seconds to wait for a silent server; torchvision itself sets no limit


def torchvision_dataset(name: str, root: str, split: str | None = None) -> Source:
    """The dataset of torchvision's class `name`, from `root`; downloaded there first if it is missing.

    MNIST's files are in root/MNIST/raw, and so on. `split` is for EMNIST only: one of `EMNIST_SPLITS`. Raises
    `UserError` if the files are missing and cannot be downloaded, or are damaged.
    """
    if name not in NAMES:
        raise UserError(f"dataset.name={name}: must be one of {', '.join(NAMES)}")
    if name == "EMNIST" and split not in EMNIST_SPLITS:
        raise UserError(f"dataset.split={split}: must be one of {', '.join(EMNIST_SPLITS)}")
    from torchvision import datasets  # takes a second

    top = Path(root).expanduser()
    options = {"split": split} if split else {}
    open_part = partial(getattr(datasets, name), root=str(top), **options)
    files = _files(name, split, top)
    lock = top / f".{name}.lock"
    if lock.exists() or not all(file.exists() for file in files):  # another process may be downloading
        _download(name, open_part, top, files, lock)
    if name not in OTHER_FILES:
        _check_idx(files)
    if name == "MNIST":
        _check_mnist(files)
    try:
        train, test = open_part(train=True), open_part(train=False)
    except Exception as error:  # torchvision's readers raise almost anything
        raise UserError(
            f"dataset.root={root}: {name}'s files in {files[0].parent} cannot be read ({one_line(error)}); "
            "delete them to download them again"
        ) from None
    of_digits = name in ("MNIST", "QMNIST", "USPS")
    return Source(
        name=name if split is None else f"{name} {split}",
        train=_as_split(name, split, train),
        test=_as_split(name, split, test),
        classes=tuple("0123456789" if of_digits else (c for c in train.classes if c != "N/A")),
        like_mnist=of_digits or name == "EMNIST",
    )


def _files(name: str, split: str | None, root: Path) -> list[Path]:
    """What torchvision keeps in `root`. In the IDX format: training images, their labels, the same for test."""
    if name in OTHER_FILES:
        return [root / file for file in OTHER_FILES[name]]
    prefix = {"QMNIST": "qmnist-", "EMNIST": f"emnist-{split}-"}.get(name, "")
    kinds = ("images-idx3-ubyte", "labels-idx2-int" if name == "QMNIST" else "labels-idx1-ubyte")
    parts = ("train", "test" if prefix else "t10k")
    return [root / name / "raw" / f"{prefix}{part}-{kind}" for part in parts for kind in kinds]


def _download(name: str, open_part: Callable[..., Any], root: Path, files: list[Path], lock: Path) -> None:
    """Lets torchvision download and check the files, in one process at a time; the others wait and find them."""
    folder = files[0].parent
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            for train in (True, False):
                open_part(train=train, download=True)
    except Exception as error:  # of the network, the disk, or torchvision's checks
        found = re.search(r"urlopen error (?:\[Errno -?\d+\] )?(.*?)>", str(error))
        reason = found[1] if found else one_line(error)[:150]
        missing = [file.name for file in files if not file.exists()]
        raise UserError(
            f"{name} is not in dataset.root={root} and could not be downloaded ({reason}): "
            f"put the {'file' if len(missing) == 1 else 'files'} {', '.join(missing)} into {folder} by hand, "
            "or use dataset=digits, which needs nothing"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
        with contextlib.suppress(OSError):  # a folder that holds something stays
            lock.unlink(missing_ok=True)
            for path in new_folders:
                path.rmdir()


def _check_idx(files: list[Path]) -> None:
    """Makes sure that files are whole, and that images and labels agree in number."""
    for images, labels in (files[:2], files[2:]):
        counts = _idx_count(images), _idx_count(labels)
        if counts[0] != counts[1]:
            raise UserError(f"{images} holds {counts[0]} images, but {labels.name} {counts[1]} labels: must agree")


def _check_mnist(files: list[Path]) -> None:
    """Makes sure that no file of the published length is altered; one of another length may be a subset."""
    names = {md5: name for name, (_, md5) in MNIST_FILES.items()}
    for file in files:
        found = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        length, expected = MNIST_FILES[file.name]
        if found != expected and (found in names or _idx_count(file) == length):
            what = f"{names[found]} under another name" if found in names else f"altered: its MD5 is {found}"
            raise UserError(f"{file} is {what}, not {expected}; delete it to download it again")


def _idx_count(path: Path) -> int:
    """The number of items in an IDX file, whose header is 0, 0, type, number of sizes, each size as 4 bytes."""
    with path.open("rb") as file:
        head = file.read(4)
        item = {b"\0\0\x08": 1, b"\0\0\x0c": 4}.get(head[:3])  # bytes of a uint8, an int32
        if item is None or not 1 <= int.from_bytes(head[3:]) <= 3:
            raise UserError(f"{path} is not an IDX file: it must start with the bytes 00 00 08 or 00 00 0c")
        sizes = [int.from_bytes(file.read(4)) for _ in range(head[3])]
    expected, actual = 4 + 4 * len(sizes) + item * prod(sizes), path.stat().st_size
    if actual != expected:
        raise UserError(
            f"{path} is {'cut short' if actual < expected else 'too long'}: it has {actual:,} bytes, "
            f"its header promises {expected:,}; delete it to download it again"
        )
    return sizes[0]


def _as_split(name: str, split: str | None, dataset: Any) -> Split:
    """torchvision's arrays as N×C×28×28 images and class numbers from 0."""
    labels = torch.as_tensor(np.asarray(dataset.targets)).long()
    if name == "QMNIST":
        labels = labels[:, 0]  # the other seven columns are about the writer
    if (name, split) == ("EMNIST", "letters"):
        labels = labels - 1  # a is 1 in the files, and torchvision's first class is "N/A"
    images = torch.as_tensor(np.asarray(dataset.data))
    if name == "CIFAR10":
        return Split(resized(images.permute(0, 3, 1, 2).float(), 28), labels)
    images = images.unsqueeze(1)
    if name == "EMNIST":
        images = images.transpose(2, 3).contiguous()  # the files hold them transposed
    if name == "USPS":
        images = into_mnist_frame(images.float())
    return Split(images, labels)
