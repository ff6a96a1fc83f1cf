"""The batches of an epoch: every image once, in an order and with an augmentation that seed and epoch decide."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lenetexp.config.targets import Augment
from lenetexp.datasets import Split
from lenetexp.training.batches import BLOCK, draw_elastic_moves, iterate_batches
from sample_images import centres_of_mass, noise

COUNT = 2 * BLOCK + 11  # more than one block, and a short last batch
ANY_WAY = Augment(shift=3, rotate=20, scale=0.2, shear=10, elastic=8)


@pytest.fixture(scope="module")
def many() -> Split:
    """Random images, each labelled with its own number, so that an order can be read off."""
    return Split(torch.from_numpy(noise(COUNT, 1, 6, 6, seed=0)), torch.arange(COUNT))


def epoch_of(
    split: Split, batch_size: int = 64, seed: int = 0, epoch: int = 1, augment: Augment | None = None
) -> tuple[Tensor, Tensor]:
    """All images and labels of an epoch in their order."""
    images, labels = zip(*iterate_batches(split, batch_size, seed, epoch, augment), strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_all_batches_are_full_but_the_last(many: Split, batch_size: int) -> None:
    sizes = [len(labels) for _, labels in iterate_batches(many, batch_size, seed=0, epoch=1)]
    assert sizes == [batch_size] * (COUNT // batch_size) + [COUNT % batch_size]


def test_an_epoch_has_every_image_once_as_floats_from_0_to_1(many: Split) -> None:
    images, labels = epoch_of(many)
    assert not torch.equal(labels, many.labels)
    assert torch.equal(labels.sort().values, many.labels)
    assert torch.equal(images, many.images[labels].float() / 255)


@pytest.mark.parametrize("augment", [None, ANY_WAY])
def test_an_epoch_depends_on_seed_and_epoch_alone(many: Split, augment: Augment | None) -> None:
    at_once = epoch_of(many, seed=3, epoch=4, augment=augment)
    for epoch in (1, 2, 3):
        epoch_of(many, seed=3, epoch=epoch, augment=augment)
    torch.rand(5)  # torch's own generator plays no part
    after_others = epoch_of(many, seed=3, epoch=4, augment=augment)
    assert all(map(torch.equal, at_once, after_others))


def test_orders_differ_between_epochs_and_seeds(many: Split) -> None:
    orders = {tuple(epoch_of(many, seed=s, epoch=e)[1].tolist()) for s in (0, 1) for e in (1, 2)}
    assert len(orders) == 4


@pytest.mark.parametrize("batch_size", [1, 1000, BLOCK + 1, 10 * BLOCK])
@pytest.mark.parametrize("augment", [None, ANY_WAY])
def test_batch_size_changes_neither_order_nor_images(many: Split, batch_size: int, augment: Augment | None) -> None:
    images, labels = epoch_of(many, batch_size=64, augment=augment)
    other_images, other_labels = epoch_of(many, batch_size=batch_size, augment=augment)
    assert torch.equal(labels, other_labels)
    torch.testing.assert_close(images, other_images, rtol=0, atol=1e-6)


def test_an_augmentation_by_nothing_changes_nothing(many: Split) -> None:
    images, labels = epoch_of(many, augment=Augment())
    plain, plain_labels = epoch_of(many)
    assert torch.equal(labels, plain_labels)
    torch.testing.assert_close(images, plain, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def spots() -> Split:
    """500 images 28×28 with one bright pixel at row 13, column 18."""
    images = torch.zeros(500, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 13, 18] = 255
    return Split(images, torch.arange(500))


def test_a_shift_moves_by_at_most_the_given_pixels_in_every_direction(spots: Split) -> None:
    images, _ = epoch_of(spots, augment=Augment(shift=3))
    moves = centres_of_mass(images) - torch.tensor([13.0, 18.0])
    assert moves.abs().max() <= 3 + 1e-3
    assert (moves.amin(0) < -2.8).all() and (moves.amax(0) > 2.8).all()


def test_a_rotation_keeps_the_distance_to_the_middle(spots: Split) -> None:
    images, _ = epoch_of(spots, augment=Augment(rotate=90))
    before, after = torch.tensor([13.0, 18.0]) - 13.5, centres_of_mass(images) - 13.5
    torch.testing.assert_close(after.norm(dim=1), before.norm().expand(500), rtol=0, atol=0.25)
    angles = torch.atan2(after[:, 0], after[:, 1]) - torch.atan2(before[0], before[1])
    assert angles.abs().max() < np.deg2rad(95) and angles.min() < -1.4 and angles.max() > 1.4


def test_a_shear_moves_rows_sideways_by_their_distance_from_the_middle(spots: Split) -> None:
    """At 45 degrees a spot 9.5 rows above the middle moves by at most 9.5 pixels, and not up or down."""
    high = Split(spots.images.roll(-9, 2), spots.labels)  # row 4: 9.5 pixels above the middle
    moves = centres_of_mass(epoch_of(high, augment=Augment(shear=45))[0]) - torch.tensor([4.0, 18.0])
    assert moves[:, 0].abs().max() < 1e-3
    assert moves[:, 1].max() <= 9.5 + 1e-3 and moves[:, 1].min() < -8 and moves[:, 1].max() > 8


def test_an_elastic_distortion_moves_pixels_as_far_as_its_formula_says(spots: Split) -> None:
    """A uniform number in ±1 has the variance 1/3; smoothing by a Gaussian of 4 pixels divides it by 4π·4²."""
    moves = centres_of_mass(epoch_of(spots, augment=Augment(elastic=20))[0]) - torch.tensor([13.0, 18.0])
    expected = 20 * (1 / 3 / (4 * np.pi * 16)) ** 0.5  # 0.81 pixels
    assert moves.std(0).tolist() == pytest.approx([expected, expected], rel=0.15)
    field = draw_elastic_moves(20, 500, 28, torch.Generator().manual_seed(0))[:, 14, :, 0]
    neighbours, far = (field - field.roll(by, 1) for by in (1, 14))
    assert neighbours[:, 10:18].std() < 0.3 * far[:, 14:].std()  # smooth


def test_augmentations_differ_between_images_epochs_and_seeds(spots: Split) -> None:
    def of_each_image(seed: int, epoch: int) -> Tensor:
        images, labels = epoch_of(spots, seed=seed, epoch=epoch, augment=Augment(shift=3))
        return centres_of_mass(images)[labels.argsort()]

    places = of_each_image(0, 1)
    assert len(places.unique(dim=0)) > 450
    for other in (of_each_image(0, 2), of_each_image(1, 1)):
        assert ((places - other).abs().amax(1) > 0.1).float().mean() > 0.9


def test_a_moved_image_keeps_its_label() -> None:
    images = torch.zeros(250, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 7:21, 7:21] = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1)
    moved, labels = epoch_of(Split(images, torch.arange(250)), augment=ANY_WAY)
    torch.testing.assert_close(moved[:, 0, 14, 14] * 255, labels.float(), rtol=0, atol=1e-3)
