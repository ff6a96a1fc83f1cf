"""The classifiers that are fitted at once reach the numbers that are known of them, on MNIST."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lenetexp.models.classical import Classical, LinearClassifier, PairwiseLinear, QuadraticClassifier
from lenetexp.models.neighbours import NearestNeighbours
from lenetexp.models.svm import PolynomialSVM


def error(model: Classical, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(1) != labels).float().mean().item()


def mnist(root: Path, part: str) -> tuple[Tensor, Tensor]:
    raw = root / "MNIST/raw"
    pixels = np.fromfile(raw / f"{part}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    labels = np.fromfile(raw / f"{part}-labels-idx1-ubyte", np.uint8)[8:]
    return torch.from_numpy(pixels.copy()).float() / 255, torch.from_numpy(labels.astype(np.int64))


@pytest.mark.parametrize(
    ("kind", "deslant", "expected"),
    [
        (LinearClassifier, False, 14.0),
        pytest.param(LinearClassifier, True, 10.3, marks=pytest.mark.slow),
        pytest.param(PairwiseLinear, True, 8.6, marks=pytest.mark.slow),
        (QuadraticClassifier, False, 3.3),  # the paper's number
    ],
)
def test_errors_on_the_whole_mnist(mnist_root: Path, kind: type[Classical], deslant: bool, expected: float) -> None:
    """As measured; other machines may differ by a few images."""
    model = kind(deslant=deslant)  # type: ignore[call-arg]
    model.learn(*mnist(mnist_root, "train"))
    assert 100 * error(model, *mnist(mnist_root, "t10k")) == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
def test_the_costly_ones_on_a_tenth_of_mnist(mnist_root: Path) -> None:
    images, labels = mnist(mnist_root, "train")
    test_images, test_labels = mnist(mnist_root, "t10k")
    for model, expected in ((NearestNeighbours(), 5.5), (PolynomialSVM(), 3.2)):
        model.learn(images[:6000], labels[:6000])
        assert 100 * error(model, test_images[::5], test_labels[::5]) == pytest.approx(expected, abs=1)
