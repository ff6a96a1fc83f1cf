"""Drawings kept as a labelled set: FOLDER/<class>/<number>.png, which dataset=image_folder reads."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lenetexp.datasets.pictures import convert_for_folder_dataset
from lenetexp.datasets.splits import Split
from lenetexp.errors import UserError
from lenetexp.inference.page.answer import encode_png

MOST = 2_000  # pictures that nets are tested on: they are read again each time


class Keeper:
    """A folder with one folder per class. Nothing in it is ever overwritten; a file is there whole or not at all."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, classes
        self._kept: list[Path] = []  # by this program
        for name in classes:
            if not name or name.startswith(".") or Path(name).name != name or "\0" in name or "\\" in name:
                raise UserError(f"keep={folder}: the class {name!r} cannot be the name of a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"keep={folder}: must be a folder that can be written ({error.strerror})") from None

    def count_pictures(self) -> dict[str, int]:
        """Count the pictures of each class."""
        return {name: sum(1 for _ in (self.folder / name).glob("*.png")) for name in self.classes}

    def load_images(self, shape: tuple[int, int, int]) -> Split:
        """Load the newest `MOST` pictures as images of this shape, as dataset=image_folder does."""
        files = [
            (path, label) for label, name in enumerate(self.classes) for path in (self.folder / name).glob("*.png")
        ]
        newest = sorted(files, key=lambda file: file[0].stat().st_mtime)[-MOST:]
        images = [convert_for_folder_dataset(path, shape) for path, _ in newest]
        stacked = np.stack(images) if images else np.zeros((0, *shape), np.uint8)
        return Split(torch.from_numpy(stacked), torch.tensor([label for _, label in newest], dtype=torch.int64))

    def keep(self, label: str, image: NDArray[np.uint8]) -> Path:
        """Write a C×H×W image as the next one of its class, and return its path.

        Raises:
            UserError: There is no such class.
        """
        if label not in self.classes:
            raise UserError(f"the label must be one of {', '.join(self.classes)[:200]}")
        folder = self.folder / label
        aside = self.folder / f".{secrets.token_hex(8)}"
        try:
            folder.mkdir(exist_ok=True)
            aside.write_bytes(encode_png(image))
            self._kept.append(path := _assign_name(aside, folder))
            return path
        except OSError as error:
            raise UserError(f"keep={self.folder}: cannot be written ({error.strerror})") from None
        finally:
            aside.unlink(missing_ok=True)

    def take_back(self, path: str) -> None:
        """Delete a picture that `keep` wrote.

        Raises:
            UserError: It is any other file.
        """
        if Path(path) not in self._kept:
            raise UserError("only what was kept since this program was started can be taken back, and only once")
        self._kept.remove(Path(path))
        Path(path).unlink(missing_ok=True)


def _assign_name(temporary: Path, folder: Path) -> Path:
    """Give a finished file the next free number."""
    number = max((int(path.stem) for path in folder.glob("*.png") if path.stem.isdecimal()), default=0)
    while True:
        number += 1
        path = folder / f"{number:04}.png"
        try:
            _move(temporary, path)
        except FileExistsError:  # another page keeps in the same folder
            continue
        return path


def _move(temporary: Path, path: Path) -> None:
    """Move a file, overwriting nothing.

    Raises:
        FileExistsError: There is a file of this name.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # there are no links on a FAT stick: take the name first
        path.touch(exist_ok=False)
        temporary.replace(path)
