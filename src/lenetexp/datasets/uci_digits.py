"""The handwritten digits that come with scikit-learn: nothing to download."""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch

from lenetexp.datasets.images import into_mnist_frame
from lenetexp.datasets.source import Source, Split, hold_out


def digits() -> Source:
    """1,797 digits, 8×8, of the UCI optical recognition set; a fifth of each class is the test set.

    They fill their 8×8 frame. A net that learns them in MNIST's form reads MNIST's digits and photos far better.
    """
    file = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    if file.exists():  # what load_digits reads, too, but that takes a second to import
        table = np.loadtxt(file, delimiter=",")  # 1797×65: 64 pixels from 0 to 16, then the class
    else:
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True))
    images = torch.from_numpy(table[:, :-1]).float().view(-1, 1, 8, 8) * (255 / 16)
    everything = Split(into_mnist_frame(images), torch.from_numpy(table[:, -1]).long())
    train, test = hold_out(everything, fraction=0.2, seed=0)
    return Source("digits", train, test, tuple("0123456789"), like_mnist=True)
