"""torchvision's datasets: downloaded if they are missing, checked, and brought to one form."""

import contextlib
import hashlib
import re
import socket
from math import prod
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from lenetexp.datasets.mnist_form import fit_into_mnist_frame
from lenetexp.datasets.pictures import resize_images
from lenetexp.datasets.splits import Source, Split
from lenetexp.errors import UserError, format_error

EMNIST_CLASSES = {
    "byclass": digits + ascii_uppercase + ascii_lowercase,
    "bymerge": digits + ascii_uppercase + "abdefghnqrt",  # the other small letters look like the capital ones
    "balanced": digits + ascii_uppercase + "abdefghnqrt",
    "letters": ascii_lowercase,
    "digits": digits,
    "mnist": digits,
}
CLOTHES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
CLASSES = {
    "MNIST": [*digits],
    "FashionMNIST": CLOTHES.split(", "),
    "KMNIST": ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
    "QMNIST": [*digits],
    "EMNIST": [],  # see EMNIST_CLASSES
    "USPS": [*digits],
    "CIFAR10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}
# What torchvision looks for in root and reads, which takes a second to import. All others are in the IDX format.
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
    """Load the dataset of torchvision's class `name`. Download it first if it is missing.

    Args:
        name: A key of `CLASSES`.
        root: The folder; MNIST's files are in root/MNIST/raw, and so on.
        split: For EMNIST only, a key of `EMNIST_CLASSES`.

    Raises:
        UserError: The files are missing and cannot be downloaded, or they are damaged.
    """
    if name not in CLASSES:
        raise UserError(f"dataset.name={name}: must be one of {', '.join(CLASSES)}")
    if split not in (EMNIST_CLASSES if name == "EMNIST" else (None,)):
        raise UserError(f"dataset.split={split}: must be one of {', '.join(EMNIST_CLASSES)}, for EMNIST only")
    top = Path(root).expanduser()
    files = _list_files(name, split, top)
    lock = top / f".{name}.lock"
    if lock.exists() or not all(file.exists() for file in files):  # another process may be downloading
        _download(name, split, top, files, lock)
    if name in OTHER_FILES:
        train, test = _read_with_torchvision(name, top, files)
    else:
        train, test = _read_idx_files(name, split, files)
    classes = tuple(CLASSES[name] if split is None else EMNIST_CLASSES[split])
    like_mnist = name in ("MNIST", "QMNIST", "EMNIST", "USPS")
    return Source(name if split is None else f"{name} {split}", train, test, classes, like_mnist)


def is_here(name: str, root: str, split: str | None = None) -> bool:
    """Return whether `torchvision_dataset` would find its files in `root` and download nothing."""
    return name in CLASSES and all(file.exists() for file in _list_files(name, split, Path(root).expanduser()))


def _list_files(name: str, split: str | None, root: Path) -> list[Path]:
    """List the files that torchvision keeps in `root`.

    In the IDX format they are the training images, their labels, the test images, their labels.
    """
    if name in OTHER_FILES:
        return [root / file for file in OTHER_FILES[name]]
    prefix = {"QMNIST": "qmnist-", "EMNIST": f"emnist-{split}-"}.get(name, "")
    kinds = ("images-idx3-ubyte", "labels-idx2-int" if name == "QMNIST" else "labels-idx1-ubyte")
    parts = ("train", "test" if prefix else "t10k")
    return [root / name / "raw" / f"{prefix}{part}-{kind}" for part in parts for kind in kinds]


def _download(name: str, split: str | None, root: Path, files: list[Path], lock: Path) -> None:
    """Let torchvision download and check the files, one process at a time. Other processes wait."""
    from torchvision import datasets

    folder = files[0].parent
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    options = {"split": split} if split else {}
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            try:
                for train in (True, False):
                    getattr(datasets, name)(str(root), train=train, download=True, **options)
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()  # while it is held: who waits for it finds it gone, and takes a new one
    except Exception as error:  # of the network, the disk, or torchvision's checks
        match = re.search(r"urlopen error (?:\[Errno -?\d+\] )?(.*?)>", str(error))
        reason = match[1] if match else format_error(error)[:150]
        missing = [file.name for file in files if not file.exists()]
        raise UserError(
            f"{name} is not in dataset.root={root} and could not be downloaded ({reason}): "
            f"put the {'file' if len(missing) == 1 else 'files'} {', '.join(missing)} into {folder} by hand, "
            "say with dataset.root=FOLDER where they are, or use dataset=digits, which needs nothing"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
        with contextlib.suppress(OSError):  # a folder that holds something stays
            for path in new_folders:
                path.rmdir()


def _read_with_torchvision(name: str, root: Path, files: list[Path]) -> list[Split]:
    """Read the training and test images of USPS or CIFAR-10, N×C×28×28."""
    from torchvision import datasets

    splits = []
    try:
        for train in (True, False):
            dataset = getattr(datasets, name)(str(root), train=train)
            images, labels = torch.as_tensor(dataset.data), torch.as_tensor(dataset.targets)
            if name == "CIFAR10":
                images = resize_images(images.permute(0, 3, 1, 2).float(), 28)
            else:
                images = fit_into_mnist_frame(images[:, None].float())
            splits.append(Split(images, labels))
    except Exception as error:  # torchvision's readers raise almost anything
        raise UserError(
            f"dataset.root={root}: {name}'s files in {files[0].parent} cannot be read ({format_error(error)}); "
            "delete them to download them again"
        ) from None
    return splits


def _read_idx_files(name: str, split: str | None, files: list[Path]) -> list[Split]:
    """Read training and test images, N×1×28×28, and class numbers from 0, from files in the order of `_list_files`."""
    arrays, splits = [_read_idx(file) for file in files], []
    if name == "MNIST":
        _check_mnist(files, arrays)
    for i in (0, 2):
        images, labels = arrays[i : i + 2]
        if len(images) != len(labels):
            lengths = f"{len(images)} images, but {files[i + 1].name} {len(labels)} labels"
            raise UserError(f"{files[i]} holds {lengths}: must agree")
        if name == "EMNIST":
            images = images.transpose(0, 2, 1)  # the files hold them transposed
        if name == "QMNIST":
            labels = labels[:, 0]  # the other seven columns are about the writer
        numbers = labels.astype(np.int64) - (split == "letters")  # where a is 1
        splits.append(Split(torch.from_numpy(images[:, None].copy()), torch.from_numpy(numbers)))
    return splits


def _read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file: two zeros, type, number of sizes, sizes in 4 bytes, values; all big-endian."""
    content = path.read_bytes()
    count, _, kind = path.name.partition("-idx")[2].partition("-")
    dtype = np.dtype({"ubyte": "u1", "int": ">i4"}[kind])
    magic = bytes([0, 0, {"ubyte": 0x08, "int": 0x0C}[kind], int(count)])
    if content[:4] != magic:
        raise UserError(f"{path} is not an IDX file of its kind: it must start with the bytes {magic.hex(' ')}")
    start = 4 + 4 * int(count)
    sizes = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
    expected = start + dtype.itemsize * prod(sizes)
    if len(content) != expected:
        raise UserError(
            f"{path} is {'cut short' if len(content) < expected else 'too long'}: it has {len(content):,} bytes, "
            f"its header promises {expected:,}; delete it to download it again"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(sizes)


def _check_mnist(files: list[Path], arrays: list[NDArray[Any]]) -> None:
    """Check that no file of the published length is altered. One of another length may be a subset."""
    names = {md5: name for name, (_, md5) in MNIST_FILES.items()}
    for file, array in zip(files, arrays, strict=True):
        md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        length, expected = MNIST_FILES[file.name]
        if md5 != expected and (md5 in names or len(array) == length):
            description = f"{names[md5]} under another name" if md5 in names else f"altered: its MD5 is {md5}"
            raise UserError(f"{file} is {description}, not {expected}; delete it to download it again")
