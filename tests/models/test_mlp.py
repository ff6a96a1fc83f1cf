"""The fully connected nets: the published counts, the paper's input and weights, both outputs."""

import math

import pytest
import torch

from helpers import composed
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.errors import UserError
from lenetexp.models.mlp import MLP
from lenetexp.training.setup import build_net


@pytest.mark.parametrize(
    ("hidden", "parameters"), [([], 7_850), ([300], 238_510), ([1000], 795_010), ([300, 100], 266_610)]
)
def test_parameter_counts_are_those_of_full_connections(hidden: list[int], parameters: int) -> None:
    """(784 + 1)·300 + (300 + 1)·10 and so on."""
    model = MLP(hidden=hidden)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_the_option_is_the_papers_net_for_cross_entropy() -> None:
    settings = check_config(RunConfig, composed("model=mlp", "model.hidden=[20,30]"))
    model = build_net(settings.model, classes=26, image_shape=(3, 28, 28))
    assert isinstance(model, MLP)
    assert [(layer.in_features, layer.out_features) for layer in model.layers] == [(2352, 20), (20, 30), (30, 26)]
    assert model(torch.rand(2, 3, 28, 28)).shape == (2, 26)


@pytest.mark.parametrize("output", ["tanh", "softmax"])
def test_the_sums_are_the_papers(output: str) -> None:
    """Background −0.1, ink 1.175; 1.7159·tanh(2a/3) after the hidden layer, and after the last one if asked."""
    model = MLP(hidden=[5], output=output)
    images = torch.rand(4, 1, 28, 28)
    images[0], images[1] = 0, 1
    first, last = model.layers
    inputs = torch.lerp(torch.tensor(-0.1), torch.tensor(1.175), images.flatten(1))
    hidden = 1.7159 * torch.tanh(2 / 3 * (inputs @ first.weight.T + first.bias))
    sums = hidden @ last.weight.T + last.bias
    expected = 1.7159 * torch.tanh(2 / 3 * sums) if output == "tanh" else sums
    torch.testing.assert_close(model(images), expected)


def test_weights_are_lecuns_or_torchs_own() -> None:
    """Uniform in ±2.4/inputs: the standard deviation is that over √3."""
    for layer, inputs in zip(MLP(hidden=[300, 100], init="lecun").layers, (784, 300, 100), strict=True):
        limit = 2.4 / inputs
        assert 0.99 * limit < layer.weight.abs().max() <= limit and layer.bias.abs().max() <= limit
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    limit = 784**-0.5
    weight = MLP(init="torch").layers[0].weight
    assert 0.99 * limit < weight.abs().max() <= limit


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden=[0]", r"model\.hidden\.0=0: must be a whole number, 1 or more"),
        ("model.hidden=300", r"model\.hidden=300: must be"),
        ("model.output=relu", r"model\.output=relu: must be tanh or softmax"),
        ("model.init=he", r"model\.init=he: must be lecun, torch or xavier"),
    ],
)
def test_a_wrong_setting_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        check_config(RunConfig, composed("model=mlp", override))


def test_images_of_another_size_are_refused() -> None:
    settings = check_config(RunConfig, composed("model=mlp"))
    with pytest.raises(UserError, match=r"MLP does not take 1×32×32 images"):
        build_net(settings.model, classes=10, image_shape=(1, 32, 32))
