"""LeNet: the published counts and shapes, the tutorial's variants, and weights that any plain module takes."""

import math

import pytest
import torch
from torch import nn

from helpers import PlainLeNet
from lenetexp.config.targets import Target
from lenetexp.errors import UserError
from lenetexp.models.lenet import ACTIVATIONS, LeNet
from lenetexp.training.setup import build_net

LENET = Target.model_validate({"_target_": "lenetexp.models.LeNet"})
# The published table: weights and biases a layer, and what it makes of a 28×28 image.
PARAMETERS = {"c1": 156, "c3": 2_416, "c5": 48_120, "f6": 10_164, "output": 850}
SHAPES = {
    "c1": (6, 28, 28), "s2": (6, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "c5": (120, 1, 1), "f6": (84,),
    "output": (10,),
}  # fmt: skip


def test_parameter_counts_are_the_published_ones() -> None:
    model = LeNet()
    assert {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in PARAMETERS} == PARAMETERS
    assert sum(p.numel() for p in model.parameters()) == 61_706


def test_the_layers_are_called_in_order_with_the_published_shapes() -> None:
    """c5, too, is a layer that hooks see, though its sums are a matrix product."""
    model = LeNet()
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for name in SHAPES:
        layer: nn.Module = getattr(model, name)
        layer.register_forward_hook(lambda _, __, out, name=name: shapes.append((name, tuple(out.shape))))
    model(torch.rand(3, 1, 28, 28))
    assert shapes == [(name, (3, *shape)) for name, shape in SHAPES.items()]


def test_a_plain_module_takes_the_weights_and_computes_the_same() -> None:
    model, plain = LeNet(), PlainLeNet()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(7, 1, 28, 28)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu"])
def test_xavier_weights_are_as_wide_as_their_papers_say(activation: str) -> None:
    """±gain·√(6 / (inputs + outputs)) (Glorot and Bengio 2010, equation 16); c5 is a full connection 400→120."""
    gain = {"sigmoid": 4, "tanh": 5 / 3, "relu": 2**0.5, "gelu": 1}[activation]
    ends = {"c1": (25, 150), "c3": (150, 400), "c5": (400, 120), "f6": (120, 84), "output": (84, 10)}
    model = LeNet(activation=activation, init="xavier")
    for name, (inputs, outputs) in ends.items():
        layer = getattr(model, name)
        limit = (gain if name in ("c1", "c3") else 1) * (6 / (inputs + outputs)) ** 0.5
        assert 0.9 * limit < layer.weight.abs().max() <= limit, name
        assert not layer.bias.any()


def test_weights_are_torchs_own_unless_asked() -> None:
    torch.manual_seed(0)
    model = LeNet()
    torch.manual_seed(0)
    first = nn.Conv2d(1, 6, kernel_size=5, padding=2)
    assert torch.equal(model.c1.weight, first.weight) and model.c1.bias.any()


def test_pooling_and_head_activation_are_the_tutorials_two_variants() -> None:
    as_coded, as_described = LeNet(), LeNet(pooling="max", head_activation=True)
    assert isinstance(as_coded.s2, nn.AvgPool2d) and isinstance(as_described.s4, nn.MaxPool2d)
    as_described.load_state_dict(as_coded.state_dict())
    images = torch.rand(64, 1, 28, 28)
    for model, activated in ((as_coded, False), (as_described, True)):
        after: list[torch.Tensor] = []
        for layer in (model.f6, model.output):  # their inputs are what c5 and f6 give
            layer.register_forward_pre_hook(lambda _, inputs, seen=after: seen.append(inputs[0]))
        model(images)
        assert [values.shape for values in after] == [(64, 120), (64, 84)]
        for values in after:
            assert (values.min() > 0 and values.max() < 1) if activated else values.min() < 0


FORMULAS = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "scaled_tanh": lambda x: 1.7159 * math.tanh(2 * x / 3),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_what_its_name_says(name: str) -> None:
    """And follows c1 and c3."""
    points = [-3.0, -1.0, -0.2, 0.0, 0.5, 2.0]
    expected = torch.tensor([FORMULAS[name](x) for x in points])
    torch.testing.assert_close(ACTIVATIONS[name]()(torch.tensor(points)), expected, atol=1e-5, rtol=1e-5)
    model = LeNet(activation=name)
    seen: dict[str, torch.Tensor] = {}
    for before, after in (("c1", "s2"), ("c3", "s4")):
        getattr(model, before).register_forward_hook(lambda _, __, out, key=before: seen.update({key: out}))
        getattr(model, after).register_forward_pre_hook(lambda _, inputs, key=after: seen.update({key: inputs[0]}))
    model(torch.rand(1, 1, 28, 28))
    torch.testing.assert_close(seen["s2"], ACTIVATIONS[name]()(seen["c1"]))
    torch.testing.assert_close(seen["s4"], ACTIVATIONS[name]()(seen["c3"]))


def test_lecuns_scaled_tanh_is_1_at_1() -> None:
    assert ACTIVATIONS["scaled_tanh"]()(torch.tensor(1.0)).item() == pytest.approx(1, abs=1e-4)


def test_classes_and_channels_follow_the_dataset() -> None:
    model = build_net(LENET, classes=26, image_shape=(3, 28, 28))
    assert model.training and model(torch.rand(2, 3, 28, 28)).shape == (2, 26)


def test_a_net_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"LeNet does not take 1×32×32 images.*28×28"):
        build_net(LENET, classes=10, image_shape=(1, 32, 32))
    for target, message in (
        ("torch.nn.Identity", r"^model: Identity must return 2×10 logits .*, not \(2, 1, 28, 28\)"),
        ("builtins.dict", r"^model\._target_=builtins\.dict: must make a torch Module, not a dict"),
        ("torch.nn.Linear", r"^model: Linear\(classes=10, channels=1\): .*unexpected keyword argument 'classes'"),
    ):
        with pytest.raises(UserError, match=message):
            build_net(Target.model_validate({"_target_": target}), classes=10, image_shape=(1, 28, 28))
