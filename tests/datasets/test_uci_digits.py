"""The digits that come with scikit-learn: all of them, in MNIST's form."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from lenetexp.datasets import digits
from lenetexp.datasets.images import into_mnist_frame
from sample_images import centres_of_mass


def pairs(images: Tensor, labels: Tensor) -> list[tuple[bytes, int]]:
    return sorted((image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_digits_are_the_1797_of_scikit_learn_and_a_fifth_of_each_is_for_the_test() -> None:
    source = digits()
    pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    expected = into_mnist_frame(pixels.float().view(1797, 1, 8, 8) * (255 / 16))
    images = torch.cat([source.train.images, source.test.images])
    assert pairs(images, torch.cat([source.train.labels, source.test.labels])) == pairs(expected, labels)
    assert ((source.test.labels.bincount() - 0.2 * labels.bincount()).abs() <= 0.5).all()
    assert source.classes == tuple("0123456789")


def test_digits_fill_their_frame_as_mnists_do() -> None:
    images = digits().train.images
    for along in (2, 3):
        inked = (images > 0).any(along)[:, 0].int()  # N×28
        last = 27 - inked.flip(1).argmax(1)
        assert (last - inked.argmax(1) < 20).all()
    assert images.amax((1, 2, 3)).min() > 200
    # MNIST's 60,000 have their mass at 14.00, 14.01, none more than 0.52 from there.
    assert (centres_of_mass(images) - 14).abs().max() < 0.6
