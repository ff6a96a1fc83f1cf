"""What is measured inside a net is what it says, of any net, and training does not notice it."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import assert_same_weights, make_data
from lenetexp.models.lenet import LeNet
from lenetexp.training.batches import convert_to_floats
from lenetexp.training.diagnostics import IMAGES, MEASURES, measure_diagnostics
from lenetexp.training.schedules import Schedule
from lenetexp.training.state import Training
from sample_training import make_training, train, weights

LAYERS = ("c1", "c3", "c5", "f6", "output")


class Custom(nn.Module):
    """Activations as a function and as a module of its own; dropout; a part that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(20, 20), nn.Sigmoid(), nn.Linear(20, 10))
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)))


def test_the_numbers_are_those_of_a_step_by_hand() -> None:
    data, training = make_data(), make_training(momentum=0.0)
    found = measure_diagnostics(training, data.train, clip_norm=None)
    assert {*found} == {
        f"{layer}/{key}"
        for layer in LAYERS
        for key in MEASURES
        if key != "saturated" and (key != "dead" or layer in ("c1", "c3"))
    }
    net = training.model
    assert isinstance(net, LeNet)
    rows = torch.linspace(0, len(data.train) - 1, IMAGES).long()
    images, labels = convert_to_floats(data.train.images[rows]), data.train.labels[rows]
    F.cross_entropy(net(images), labels).backward()
    passed = F.relu(net.c1(images))
    assert found["c1/activation_mean"] == pytest.approx(passed.mean().item(), rel=1e-4)
    assert found["c1/activation_deviation"] == pytest.approx(passed.var(0, correction=0).mean().sqrt().item(), rel=1e-4)
    for name in LAYERS:
        layer = getattr(net, name)
        weight = torch.cat([layer.weight.flatten(), layer.bias]).norm().item()
        gradient = torch.cat([layer.weight.grad.flatten(), layer.bias.grad]).norm().item()
        assert found[f"{name}/weight_norm"] == pytest.approx(weight, rel=1e-4)
        assert found[f"{name}/gradient_norm"] == pytest.approx(gradient, rel=1e-3)
        assert found[f"{name}/update_ratio"] == pytest.approx(0.05 * gradient / weight, rel=1e-3)


@pytest.mark.parametrize(
    ("activation", "bias", "scale", "share"),
    [
        ("relu", -100.0, 1.0, 1.0),  # dead
        ("relu", 0.1, 0.0, 0.0),
        ("sigmoid", 4.5, 0.0, 1.0),
        ("sigmoid", 4.2, 0.0, 0.0),  # σ(1 - σ) is above a twentieth of its 0.25
        ("sigmoid", -4.5, 0.0, 1.0),
        ("tanh", 2.3, 0.0, 1.0),
        ("tanh", 2.0, 0.0, 0.0),
        ("scaled_tanh", 3.5, 0.0, 1.0),
        ("elu", -3.1, 0.0, 1.0),
        ("elu", -2.9, 0.0, 0.0),
        ("gelu", -9.0, 0.0, 1.0),
        ("silu", -9.0, 0.0, 1.0),
    ],
)
def test_saturated_and_dead_are_the_share_that_is_flat(
    activation: str, bias: float, scale: float, share: float
) -> None:
    training = make_training(LeNet(activation=activation))
    layer = training.model.c1
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.fill_(bias)
    found = measure_diagnostics(training, make_data().train, None)
    kind, other = ("saturated", "dead") if activation in ("sigmoid", "tanh", "scaled_tanh") else ("dead", "saturated")
    assert found[f"c1/{kind}"] == share and f"c1/{other}" not in found


def test_of_relu_a_map_counts_only_if_it_is_zero_for_every_image() -> None:
    training = make_training()
    layer = training.model.c1
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    with torch.no_grad():
        layer.bias[:2] = -100.0
        layer.bias[2:] = 100.0
    assert measure_diagnostics(training, make_data().train, None)["c1/dead"] == pytest.approx(2 / 6)


@pytest.mark.parametrize("custom", [False, True])
def test_training_is_the_same_with_and_without(custom: bool) -> None:
    """Momentum, the scheduler and what dropout draws are as they were."""

    def fresh() -> Training:
        torch.manual_seed(3)
        return make_training(Custom() if custom else LeNet(activation="tanh"))

    one, other = fresh(), fresh()
    data = make_data()
    records = [train(training, data, diagnostics=looks) for training, looks in ((one, True), (other, False))]
    assert_same_weights(weights(one), weights(other))
    assert [r.train_loss for r in records[0]] == [r.train_loss for r in records[1]]
    assert one.schedule.scheduler.state_dict() == other.schedule.scheduler.state_dict()
    assert all(record.inside for record in records[0]) and not any(record.inside for record in records[1])


def test_a_custom_nets_layers_are_known_by_their_names() -> None:
    found = measure_diagnostics(make_training(Custom()), make_data().train, None)
    assert {key.rpartition("/")[0] for key in found} == {"body.1", "head.0", "head.2"}
    assert 0 <= found["head.0/saturated"] < 0.1 and "body.1/saturated" not in found, "of a function nothing is known"


class Odd(nn.Module):
    """A leaf with weights of its own, names that MLflow does not take, in-place and other uncommon activations."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"1x1,a": nn.Conv2d(1, 4, 1), "act": nn.PReLU(4), "conv": nn.Conv2d(4, 4, 3)})
        self.six = nn.ReLU6(inplace=True)
        self.frozen = nn.Linear(4 * 26 * 26, 10)
        self.frozen.requires_grad_(False)
        self.end = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.parts["act"](self.parts["1x1,a"](x))
        return self.end(self.frozen(self.six(self.parts["conv"](x)).flatten(1)))  # type: ignore[no-any-return]


class Leaf(nn.Module):
    """A softmax regression."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(784, 10))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def test_whatever_a_custom_net_is_made_of_its_layers_are_measured() -> None:
    found = measure_diagnostics(make_training(Odd()), make_data().train, None)
    assert {key.partition("/")[0] for key in found} == {"parts.1x1_a", "parts.conv", "frozen"}
    assert 0 < found["parts.conv/saturated"] < 1 and "frozen/gradient_norm" not in found
    assert {key.partition("/")[0] for key in measure_diagnostics(make_training(Leaf()), make_data().train, None)} == {
        "Leaf"
    }


@pytest.mark.parametrize("activation", ["leaky_relu"])
def test_an_end_that_is_not_flat_is_neither(activation: str) -> None:
    found = measure_diagnostics(make_training(LeNet(activation=activation)), make_data().train, None)
    assert not {"c1/saturated", "c1/dead"} & {*found}


def test_the_last_step_of_a_schedule_that_ends_at_zero_is_measured_at_its_own_rate() -> None:
    training, data = make_training(), make_data(32)
    training.schedule = Schedule(torch.optim.lr_scheduler.LinearLR(training.optimizer, 1.0, 0.0, 2), "batch")
    (record,) = train(training, data, epochs=1, diagnostics=True)
    assert training.optimizer.param_groups[0]["lr"] == 0 and record.inside["c1/update_ratio"] > 1e-5


def test_a_net_that_cannot_be_copied_is_trained_all_the_same() -> None:
    training = make_training()
    training.model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="diagnostics: cannot look inside LeNet .*; diagnostics=off"):
        records = train(training, make_data(), diagnostics=True)
    assert len(records) == 3 and not any(record.inside for record in records)
