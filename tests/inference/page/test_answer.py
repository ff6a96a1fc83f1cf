"""What the page shows of any net that lenetexp trains, and how well drawings are read."""

from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers import InProcess, PlainLeNet, composed, in_process, make_pictures
from lenetexp.config.commands import PredictConfig
from lenetexp.config.schema import check_config
from lenetexp.datasets.local import digits
from lenetexp.datasets.splits import Split
from lenetexp.inference.page.answer import MOST_MAPS, ObservedNet, answer_picture, answer_to_test
from lenetexp.inference.page.gallery import TestImages
from lenetexp.inference.trained import Facts, TrainedNet, _Config, load_net
from lenetexp.models import MLP, LeNet, LeNet1, LeNet4, LeNet5, LeNet1989, NearestNeighbours
from lenetexp.tracking.query import RecordedRun
from lenetexp.tracking.selection import find_run
from lenetexp.tracking.store import open_store
from page_server import as_ink


def watched(model: nn.Module, shape: tuple[int, int, int] = (1, 28, 28), as_mnist: bool = True) -> ObservedNet:
    """A net with its first weights, as if a run had trained it on digits."""
    facts = Facts(classes=(*"0123456789",), image_shape=shape, like_mnist=as_mnist)
    return ObservedNet(TrainedNet(model, _Config.model_construct(), facts))


def newest_run(store: InProcess) -> RecordedRun:
    settings = check_config(PredictConfig, composed(f"tracking.uri={store.uri}", name="predict"))
    return find_run(open_store(settings.tracking, create=False), "latest")


def digit() -> bytes:
    return as_ink(digits().test.images[0, 0].numpy())


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (LeNet(activation="relu"), {"c1": 6, "s2": 6, "c3": 16, "s4": 16, "c5": 120, "f6": 84}),
        (PlainLeNet(), {"c1": 6, "s2": 6, "c3": 16, "s4": 16, "c5": 120, "f6": 84}),
        (LeNet1(), {"c1": 4, "s2": 4, "c3": 12, "s4": 12}),
        (LeNet4(), {"c1": 4, "s2": 8, "c3": 16, "s4": 16, "c5": 120}),
        (LeNet5(), {"c1": 6, "s2": 6, "c3": 16, "s4": 16, "c5": 120, "f6": 84}),
        (MLP(hidden=(30, 20)), {"layers.0": 30, "layers.1": 20}),
        (NearestNeighbours(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_net_is_looked_into_as_far_as_it_has_layers(model: nn.Module, layers: dict[str, int]) -> None:
    (opinion,) = answer_picture([watched(model)], digit()).nets
    assert {layer.name: layer.count for layer in opinion.layers} == layers
    assert sum(opinion.shares) == pytest.approx(1) and opinion.winner == int(np.argmax(opinion.shares))


def test_a_historic_net_is_looked_into() -> None:
    (opinion,) = answer_picture([watched(LeNet1989())], digit()).nets
    assert len(opinion.layers) >= 3 and opinion.layers[0].width > 1


def test_a_layer_is_shown_after_its_activation() -> None:
    model = LeNet(activation="sigmoid")
    net = watched(model)
    image = digits().test.images[:1]
    c1 = net.observe(image[0].numpy(), 0).layers[0]
    with torch.no_grad():
        expected = model.activation(model.c1(image / 255))[0]
    assert (c1.low, c1.high) == pytest.approx((float(expected.min()), float(expected.max())))
    values = np.frombuffer(b64decode(c1.values), np.uint8).reshape(6, 28, 28) / 255 * (c1.high - c1.low) + c1.low
    assert np.abs(values - expected.numpy()).max() < 0.51 / 255 * (c1.high - c1.low)


def test_images_that_are_not_like_mnist_are_scaled_as_in_training() -> None:
    net = watched(nn.Sequential(nn.Conv2d(3, 100, 3), nn.Flatten(), nn.Linear(90_000, 10)), (3, 32, 32), False)
    given = answer_picture([net, watched(LeNet())], digit())
    assert [len(steps) for steps in given.preparations] == [1, 4]
    assert [opinion.preparation for opinion in given.nets] == [0, 1]
    (step,) = given.preparations[0]
    assert (step.pixels.width, step.pixels.channels) == (32, 3)
    first = given.nets[0].layers[0]
    assert (first.count, first.of) == (MOST_MAPS, 100), "a wide layer in part"
    given = answer_to_test([watched(LeNet()), net], digits().test.images[0].numpy())
    assert [len(steps) for steps in given.preparations] == [1, 1]


def test_what_is_not_finite_is_shown_as_zero() -> None:
    model = LeNet()
    nn.init.constant_(model.c3.weight, torch.nan)
    (opinion,) = answer_picture([watched(model)], digit()).nets
    assert opinion.shares == [0.0] * 10 and opinion.layers[2].high == 0


def test_drawings_of_mnist_are_read_as_well_as_the_originals(knows_mnist: tuple[ObservedNet, Split]) -> None:
    """Fifty of the 10,000 test images, scaled up to the sheet as ink: at most one more or less is read correctly."""
    net, test = knows_mnist
    right = np.zeros(2, int)
    for image, label in zip(test.images.numpy(), test.labels.tolist(), strict=True):
        drawn = answer_picture([net], as_ink(image[0])).nets[0].winner
        right += [net.observe(image, 0).winner == label, drawn == label]
    assert abs(right[0] - right[1]) <= 1 and right[0] >= 45, right


def test_images_that_are_not_here_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    store = in_process(tmp_path, monkeypatch, empty_store)
    make_pictures(tmp_path / "pictures")
    store.train("dataset=image_folder", "dataset.root=pictures", "epochs=1", recipe=())
    stored = newest_run(store)
    net = load_net(stored)
    assert [image.label for image in TestImages([net], [stored], None).gallery.images] == [0, 1]
    (tmp_path / "pictures").rename(tmp_path / "moved")
    assert "pictures" in TestImages([net], [stored], None).gallery.note
    assert TestImages([net], [stored], str(tmp_path / "moved")).gallery.note == ""
    config = {"_target_": "lenetexp.datasets.torchvision_dataset", "name": "MNIST", "root": str(tmp_path / "none")}
    dataset = type(net.config.dataset).model_validate({**config, "validation": 0.1, "split_seed": 0, "augment": None})
    elsewhere = TrainedNet(net.model, net.config.model_copy(update={"dataset": dataset}), net.facts)
    note = TestImages([elsewhere], [stored], str(tmp_path / "none")).gallery.note
    assert "are not in" in note and not (tmp_path / "none").exists()
