"""The test images of the nets' dataset, and the ones that each net got wrong."""

import csv
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from lenetexp.datasets.downloads import is_here
from lenetexp.datasets.pictures import FamiliarImages
from lenetexp.datasets.splits import Data
from lenetexp.datasets.splits import load_data as load_images
from lenetexp.errors import UserError
from lenetexp.inference.page.answer import encode_png
from lenetexp.inference.trained import TrainedNet
from lenetexp.tracking.names import File
from lenetexp.tracking.query import RecordedRun

OF_EACH_CLASS = 3  # test images
MOST_CLASSES = 20  # of which images are shown
MISTAKES = 60  # of each net


@dataclass(frozen=True)
class GalleryItem:
    """A test image: its number from 0, its class, and the image in base64."""

    number: int
    label: int
    png: str


@dataclass(frozen=True)
class Gallery:
    """What the page offers beside drawing."""

    images: list[GalleryItem] = field(default_factory=list)  # all that are named below
    samples: list[int] = field(default_factory=list)  # numbers
    mistakes: list[list[tuple[int, int]]] = field(default_factory=list)  # of each net: number, what it said
    note: str = ""  # why there is nothing


class TestImages:
    """The test images of the first net's dataset, if they are on this machine. They are never downloaded."""

    __test__ = False  # for pytest: no test

    def __init__(self, nets: list[TrainedNet], runs: list[RecordedRun], root: str | None) -> None:
        self.images, self.labels = np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64)
        self.familiar: FamiliarImages | None = None
        try:
            data = _load_own_images(nets[0], root)
        except (UserError, OSError) as error:
            self.gallery = Gallery(note=str(error))
            return
        self.familiar = FamiliarImages(data.train.images, data.val.images)
        self.images, self.labels = data.test.images.numpy(), data.test.labels.numpy()
        by_class = [np.flatnonzero(self.labels == label)[:OF_EACH_CLASS] for label in range(len(data.classes))]
        samples = [int(number) for numbers in by_class[:MOST_CLASSES] for number in numbers]
        same = [net.facts.digest == data.digest for net in nets]  # others' numbers are of other images
        mistakes = [_rank_mistakes(run, len(self.images)) if here else [] for run, here in zip(runs, same, strict=True)]
        names = sorted({*samples, *(number for each in mistakes for number, _ in each)})
        labels = [
            GalleryItem(number, int(self.labels[number]), b64encode(encode_png(self.images[number])).decode())
            for number in names
        ]
        self.gallery = Gallery(labels, samples, mistakes)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Return an image, C×H×W.

        Raises:
            UserError: There is no such image.
        """
        if not 0 <= number < len(self.images):
            raise UserError(f"there is no test image {number}; there are {len(self.images):,}, counted from 0")
        image: NDArray[np.uint8] = self.images[number]
        return image


def _load_own_images(net: TrainedNet, root: str | None) -> Data:
    """Load the images of the run's own dataset.

    Raises:
        UserError: They are not on this machine, or have other classes.
    """
    dataset = net.locate_own_dataset(root)
    arguments = dataset.build_call()
    if dataset.name == "torchvision_dataset" and not is_here(
        arguments["name"], arguments["root"], arguments.get("split")
    ):
        raise UserError(f"The test images of {net.facts.name} are not in {arguments['root']}; root=FOLDER says where")
    data = load_images(dataset, torch.device("cpu"))
    if data.classes != net.facts.classes or data.image_shape != net.facts.image_shape:
        raise UserError(f"The images of {data.name} are not of the net's classes and shape; root=FOLDER says where")
    return data


def _rank_mistakes(run: RecordedRun, images: int) -> list[tuple[int, int]]:
    """Rank the test images that a run's net got wrong, the most confident mistakes first, with what it answered.

    Returns nothing if the run recorded no predictions.
    """
    table = []
    with suppress(UserError, OSError, ValueError, KeyError), TemporaryDirectory(prefix="lenetexp-") as folder:
        (path,) = run.download(Path(folder), File.PREDICTIONS)
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                number, label, predictions = (int(row[key]) for key in ("image", "label", "predicted"))
                if predictions != label and 0 <= number < images:
                    table.append((float(row["confidence"]), number, predictions))
    return [(number, predictions) for _, number, predictions in sorted(table, reverse=True)[:MISTAKES]]
