"""First weights are as wide as the papers say, whatever a unit's number of inputs."""

import math
from collections import Counter

import pytest
import torch
from torch import nn

from lenetexp.models.layers import draw_weights
from lenetexp.models.lenet_1989 import LeNet1989
from lenetexp.models.lenet_1998 import LeNet1, LeNet4, LeNet5

# The number of inputs of a unit in each layer, the trained kernels of which are drawn within ± 2.4 of its inverse.
FAN_INS: dict[type[nn.Module], dict[str, int]] = {
    LeNet1989: {"h1": 25, "h2": 200, "h3": 192, "output": 30},
    LeNet1: {"c1": 25, "s2": 4, "s4": 4, "output": 192},
    LeNet4: {"c1": 25, "s2": 4, "s4": 4, "output": 120},
    LeNet5: {"c1": 25, "s2": 4, "s4": 4, "c5": 400, "f6": 120},
}


@pytest.mark.parametrize("net", FAN_INS)
def test_first_weights_are_as_wide_as_the_papers_say(net: type[nn.Module]) -> None:
    for init, limit_of in {"lecun": lambda fan: 2.4 / fan, "torch": lambda fan: 1 / math.sqrt(fan)}.items():
        model = net(init=init)
        for name, fan_in in FAN_INS[net].items():
            layer = getattr(model, name)
            weight = getattr(layer, "coefficient", getattr(layer, "weight", None))
            values = torch.cat([weight.flatten(), layer.bias.flatten()]).abs()
            # Of so few values as a subsampling layer has, none may come near the limit.
            least = 0.9 if len(values) >= 100 else 0.3
            assert least * limit_of(fan_in) < values.max() <= limit_of(fan_in), (init, name)


def test_a_map_that_sees_more_starts_with_smaller_weights() -> None:
    layer = LeNet5(init="lecun").c3
    kernels = layer.weight.split([len(seen) for seen in LeNet5.C3_TABLE])
    for seen, its, bias in zip(LeNet5.C3_TABLE, kernels, layer.bias, strict=True):
        limit = 2.4 / (25 * len(seen))
        assert 0.8 * limit < its.abs().max() <= limit and bias.abs() <= limit


def test_xavier_counts_inputs_and_outputs_and_has_no_bias() -> None:
    layer = LeNet5(init="xavier").c3
    leads = Counter(i for seen in LeNet5.C3_TABLE for i in seen)
    kernels = iter(layer.weight)
    for seen in LeNet5.C3_TABLE:
        for i in seen:
            limit = math.sqrt(6 / (25 * len(seen) + 25 * leads[i]))
            assert 0.5 * limit < next(kernels).abs().max() <= limit
    assert not layer.bias.any()


def test_torchs_first_weights_are_as_wide_as_torchs_own() -> None:
    torch.manual_seed(0)
    own, ours = nn.Linear(400, 120), nn.Linear(400, 120)
    draw_weights(ours, "torch")
    assert ours.weight.abs().max().item() == pytest.approx(own.weight.abs().max().item(), rel=1e-2)
    assert ours.bias.abs().max().item() == pytest.approx(own.bias.abs().max().item(), rel=0.2)
