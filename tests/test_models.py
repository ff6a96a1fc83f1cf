"""The net: the published counts, the tutorial's variants, and weights that any plain module takes."""

import math

import pytest
import torch
from torch import nn

from lenetexp.config import Target, UserError
from lenetexp.models import ACTIVATIONS, LeNet, build

# The counts of the published table: weights and biases a layer.
PARAMETERS = {"c1": 156, "c3": 2_416, "c5": 48_120, "f6": 10_164, "output": 850}


class PlainLeNet(nn.Module):
    """The seven layers as someone else would write them, c5 as the convolution that it is."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5, padding=2)
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.s4 = nn.AvgPool2d(2)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.s2(torch.sigmoid(self.c1(x)))
        x = self.s4(torch.sigmoid(self.c3(x)))
        return self.output(self.f6(self.c5(x).flatten(1)))


def test_parameter_counts_are_the_published_ones() -> None:
    model = LeNet()
    counts = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in PARAMETERS}
    assert counts == PARAMETERS
    assert sum(p.numel() for p in model.parameters()) == 61_706


def test_a_plain_module_takes_the_weights_and_computes_the_same() -> None:
    model, plain = LeNet(), PlainLeNet()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(7, 1, 28, 28)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-5)


def test_the_layers_have_the_published_shapes() -> None:
    model = LeNet()
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("c1", "s2", "c3", "s4", "f6", "output"):
        layer: nn.Module = getattr(model, name)
        layer.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape)}))
    model(torch.rand(3, 1, 28, 28))
    assert shapes == {
        "c1": (3, 6, 28, 28),
        "s2": (3, 6, 14, 14),
        "c3": (3, 16, 10, 10),
        "s4": (3, 16, 5, 5),
        "f6": (3, 84),
        "output": (3, 10),
    }


def test_pooling_and_head_activation_are_the_tutorials_two_variants() -> None:
    as_coded, as_told = LeNet(), LeNet(pooling="max", head_activation=True)
    assert isinstance(as_coded.s2, nn.AvgPool2d) and isinstance(as_told.s4, nn.MaxPool2d)
    as_told.load_state_dict(as_coded.state_dict())
    hidden: list[torch.Tensor] = []
    for model in (as_coded, as_told):
        model.output.register_forward_hook(lambda _, inputs, __: hidden.append(inputs[0]))
        model(torch.rand(64, 1, 28, 28))
    plain, activated = hidden
    assert plain.min() < 0, "without the activation f6 gives any number"
    assert activated.min() > 0 and activated.max() < 1, "with it a sigmoid's"


def phi(x: float) -> float:
    """The normal distribution's cumulative function."""
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


FORMULAS = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * phi(x),
    "scaled_tanh": lambda x: 1.7159 * math.tanh(2 * x / 3),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_what_its_name_says(name: str) -> None:
    points = [-3.0, -1.0, -0.2, 0.0, 0.5, 2.0]
    expected = torch.tensor([FORMULAS[name](x) for x in points])
    model = LeNet(activation=name, head_activation=True)
    applied = []
    for layer in (model.s2, model.f6):
        layer.register_forward_pre_hook(lambda _, inputs: applied.append(inputs[0]))
    torch.testing.assert_close(ACTIVATIONS[name](torch.tensor(points)), expected, atol=1e-5, rtol=1e-5)
    image = torch.rand(1, 1, 28, 28)
    model(image)
    torch.testing.assert_close(applied[0], ACTIVATIONS[name](model.c1(image)))


def test_scaled_tanh_is_lecuns() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 3.0])
    expected = [1.7159 * math.tanh(2 * v / 3) for v in x.tolist()]
    torch.testing.assert_close(ACTIVATIONS["scaled_tanh"](x), torch.tensor(expected))
    assert abs(ACTIVATIONS["scaled_tanh"](torch.tensor(1.0)).item() - 1) < 1e-4, "f(1) = 1, as he wanted"


def test_classes_and_channels_follow_the_dataset() -> None:
    settings = Target.model_validate({"_target_": "lenetexp.models.LeNet"})
    model = build(settings, classes=26, image_shape=(3, 28, 28))
    assert model(torch.rand(2, 3, 28, 28)).shape == (2, 26)


def test_images_of_another_size_are_refused_in_one_sentence() -> None:
    settings = Target.model_validate({"_target_": "lenetexp.models.LeNet"})
    with pytest.raises(UserError, match=r"LeNet does not take 1×32×32 images.*28×28"):
        build(settings, classes=10, image_shape=(1, 32, 32))
