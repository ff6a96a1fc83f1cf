"""Datasets without download: scikit-learn's digits, and the user's own pictures, one folder a class."""

import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lenetexp.datasets.mnist_form import fit_into_mnist_frame
from lenetexp.datasets.pictures import IMAGE_SUFFIXES, SUFFIXES, convert_for_folder_dataset
from lenetexp.datasets.splits import Source, Split, hold_out
from lenetexp.errors import UserError, wrap_text


def digits() -> Source:
    """Return the 1,797 8×8 digits of the UCI optical recognition set, brought into MNIST's form.

    A fifth of each class is the test set.
    """
    file = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    if file.exists():  # what load_digits reads, too, but that takes a second to import
        table = np.loadtxt(file, delimiter=",")  # 1797×65: 64 pixels from 0 to 16, then the class
    else:
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True))
    images = torch.from_numpy(table[:, :-1]).float().view(-1, 1, 8, 8) * (255 / 16)
    # They fill their 8×8 frame. A net that learns them in MNIST's form reads MNIST's digits and photos far better.
    images_and_labels = Split(fit_into_mnist_frame(images), torch.from_numpy(table[:, -1]).long())
    train, test = hold_out(images_and_labels, fraction=0.2, seed=0, classes=tuple("0123456789"))
    return Source("digits", train, test, tuple("0123456789"), like_mnist=True)


def image_folder(root: str, image_size: int, channels: int, test: float) -> Source:
    """Read pictures from root/<class>/, or from root/train/<class>/ and root/test/<class>/.

    Args:
        root: The folder.
        image_size: Side in pixels to which pictures are scaled.
        channels: 1 (grey) or 3.
        test: Share of each class that becomes the test set if root has no train and test folders.

    Raises:
        UserError: The folders are not as described, or a picture cannot be read.
    """
    folder, shape = Path(root).expanduser(), (channels, image_size, image_size)
    if not folder.is_dir():
        raise UserError(f"dataset.root={root}: must be a folder with one folder a class in it")
    train_folder, test_folder = folder / "train", folder / "test"
    if not train_folder.is_dir():
        classes = _list_class_folders(folder)
        train, held_out = hold_out(_decode(folder, classes, shape), test, seed=0, classes=classes)
    elif not test_folder.is_dir():
        raise UserError(f"dataset.root={root}: has a folder train but no folder test; must have both or neither")
    else:
        classes = _list_class_folders(train_folder)
        if extra := {path.name for path in _list_folders(test_folder)} - {*classes}:
            raise UserError(f"{test_folder} has classes that {train_folder} has not: {', '.join(sorted(extra))}")
        train, held_out = (_decode(part, classes, shape) for part in (train_folder, test_folder))
    return Source(folder.resolve().name, train, held_out, classes)


def _list_class_folders(folder: Path) -> tuple[str, ...]:
    """List the names of the classes. Warn of those without pictures.

    Raises:
        UserError: Only one class has pictures.
    """
    names = sorted(path.name for path in _list_folders(folder))
    nonempty = [name for name in names if any(_list_pictures(folder / name))]
    if len(nonempty) == 1:
        raise UserError(f"dataset.root={folder}: all pictures are of one class, {nonempty[0]}; must be of two or more")
    if nonempty and len(nonempty) < len(names):
        empty = ", ".join(name for name in names if name not in nonempty)
        print(wrap_text(f"warning: dataset.root={folder}: no pictures of these classes: {empty}"), file=sys.stderr)
    return tuple(names)


def _list_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _list_pictures(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _decode(folder: Path, classes: Sequence[str], shape: tuple[int, int, int]) -> Split:
    files = [(path, label) for label, name in enumerate(classes) for path in sorted(_list_pictures(folder / name))]
    if not files:
        raise UserError(f"dataset.root={folder}: there are no pictures; must hold one folder a class ({SUFFIXES})")
    images = torch.empty(len(files), *shape, dtype=torch.uint8)
    for i, (path, _) in enumerate(tqdm(files, desc="decoding", unit="img", disable=None)):
        images[i] = torch.from_numpy(convert_for_folder_dataset(path, shape))
    return Split(images, torch.tensor([label for _, label in files]))
