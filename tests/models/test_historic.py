"""The nets of the papers: their published counts, tables and shapes, what their layers compute, how they start."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lenetexp import models
from lenetexp.config.targets import MODELS, ClassicalModel, Target
from lenetexp.datasets import torchvision_dataset
from lenetexp.errors import UserError
from lenetexp.models.bitmaps import DIGITS, HEIGHT, WIDTH, build_bitmaps
from lenetexp.models.counts import Layer, list_layers
from lenetexp.models.layers import FEW, EuclideanRBF, QuickConv2d, ScaledTanh, Subsampling, TableConv2d, convolve
from lenetexp.models.lenet_1989 import LeNet1989
from lenetexp.models.lenet_1998 import LeNet1, LeNet4, LeNet5
from lenetexp.training.setup import build_net

HISTORIC = (LeNet1989, LeNet1, LeNet4, LeNet5)
# Each layer's parameters and connections as published; of LeNet-4, a reconstruction, as computed by hand.
PUBLISHED: dict[type[nn.Module], dict[str, tuple[int, int]]] = {
    LeNet1989: {"h1": (1_068, 19_968), "h2": (2_592, 38_592), "h3": (5_790, 5_790), "output": (310, 310)},
    LeNet1: {
        "c1": (104, 59_904), "s2": (8, 2_880), "c3": (512, 32_768), "s4": (24, 960), "output": (1_930, 1_930),
    },
    LeNet4: {
        "c1": (104, 81_536), "s2": (16, 7_840), "c3": (1_516, 151_600), "s4": (32, 2_000), "c5": (14_120, 14_120),
        "output": (1_210, 1_210),
    },
    LeNet5: {
        "c1": (156, 122_304), "s2": (12, 5_880), "c3": (1_516, 151_600), "s4": (32, 2_000), "c5": (48_120, 48_120),
        "f6": (10_164, 10_164), "output": (0, 840),
    },
}  # fmt: skip
SHAPES: dict[type[nn.Module], dict[str, tuple[int, ...]]] = {
    LeNet1989: {"input": (1, 16, 16), "h1": (12, 8, 8), "h2": (12, 4, 4), "h3": (30,), "output": (10,)},
    LeNet1: {
        "input": (1, 28, 28), "c1": (4, 24, 24), "s2": (4, 12, 12), "c3": (12, 8, 8), "s4": (12, 4, 4), "output": (10,),
    },
    LeNet4: {
        "input": (1, 32, 32), "c1": (4, 28, 28), "s2": (8, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "c5": (120,),
        "output": (10,),
    },
    LeNet5: {
        "input": (1, 32, 32), "c1": (6, 28, 28), "s2": (6, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "c5": (120,),
        "f6": (84,), "output": (10,),
    },
}  # fmt: skip

NETS = [name for name, kind in MODELS.items() if kind is not ClassicalModel]


def layers(net: type[nn.Module], **settings: Any) -> list[Layer]:
    return list_layers(net(**settings), (1, 28, 28))


@pytest.mark.parametrize("net", HISTORIC)
def test_every_layer_has_the_published_shape_parameters_and_connections(net: type[nn.Module]) -> None:
    found = layers(net)
    assert {layer.name: layer.shape for layer in found} == SHAPES[net]
    assert {layer.name: (layer.parameters, layer.connections) for layer in found[1:]} == PUBLISHED[net]


@pytest.mark.parametrize(
    ("net", "parameters", "connections"),
    [(LeNet1989, 9_760, 64_660), (LeNet1, 2_578, 98_442), (LeNet4, 16_998, 258_306), (LeNet5, 60_000, 340_908)],
)
def test_the_totals_are_the_published_ones(net: type[nn.Module], parameters: int, connections: int) -> None:
    """LeNet-4's paper says about 17,000 and 260,000."""
    assert sum(p.numel() for p in net().parameters()) == parameters
    found = layers(net)
    assert sum(layer.parameters for layer in found) == parameters
    assert sum(layer.connections for layer in found) == connections


def test_the_net_of_1989_has_1256_units_with_those_of_its_image() -> None:
    assert sum(layer.units for layer in layers(LeNet1989)) == 1_256


def test_table_1_is_the_papers() -> None:
    """X where map (row) is seen by a map of c3 (column): LeCun 1998, Table I."""
    rows = """
        X . . . X X X . . X X X X . X X
        X X . . . X X X . . X X X X . X
        X X X . . . X X X . . X . X X X
        . X X X . . X X X X . . X . X X
        . . X X X . . X X X X . X X . X
        . . . X X X . . X X X X . X X X
    """
    grid = [row.split() for row in rows.split("\n") if row.strip()]
    assert [[("." if i not in seen else "X") for seen in LeNet5.C3_TABLE] for i in range(6)] == grid


@pytest.mark.parametrize(
    ("net", "layer", "kernels"),
    [(LeNet1, "c3", 20), (LeNet4, "c3", 60), (LeNet4, "c5", 560), (LeNet5, "c3", 60), (LeNet1989, "h2", 96)],
)
def test_tables_have_so_many_kernels_and_use_all_maps_evenly(net: type[nn.Module], layer: str, kernels: int) -> None:
    found = getattr(net(), layer)
    assert len(found.weight) == kernels and all(len({*seen}) == len(seen) for seen in found.table)
    used = Counter(i for seen in found.table for i in seen)
    assert {*used} == {*range(found.inputs)} and max(used.values()) - min(used.values()) <= 2


def test_no_two_units_of_lenet_4_see_the_same_maps() -> None:
    for table in (LeNet4.C3_TABLE, LeNet4.C5_TABLE):
        assert len({frozenset(seen) for seen in table}) == len(table)


@pytest.mark.parametrize("images", [1, FEW + 1])
def test_a_table_convolution_is_a_sum_over_the_maps_it_sees(images: int) -> None:
    """And so are its gradients, by either way to compute it."""
    table = [[0, 2], [1], [0, 1, 2]]
    layer = TableConv2d(3, table, kernel_size=5, stride=2)
    x = torch.rand(images, 3, 12, 12, requires_grad=True)
    kernels, expected = iter(layer.weight), []
    for k, seen in enumerate(table):
        maps = [F.conv2d(x[:, i : i + 1], next(kernels)[None, None], stride=2) for i in seen]
        expected.append(sum(maps) + layer.bias[k])
    wanted = torch.cat(expected, 1)
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
    ends = (x, *layer.parameters())
    for one, other in zip(
        torch.autograd.grad(layer(x).square().sum(), ends),
        torch.autograd.grad(wanted.square().sum(), ends),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_a_convolution_of_few_images_is_that_of_many() -> None:
    layer = QuickConv2d(3, 6, kernel_size=5).to(memory_format=torch.channels_last)
    x = torch.rand(FEW + 1, 3, 12, 12).to(memory_format=torch.channels_last)
    torch.testing.assert_close(torch.cat([layer(x[i : i + 1]) for i in range(len(x))]), layer(x))
    layer(x[:1]).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(convolve(x[:1], layer.weight, None), F.conv2d(x[:1], layer.weight))


def test_subsampling_is_a_trained_multiple_of_the_sum_of_four() -> None:
    layer = Subsampling(2)
    with torch.no_grad():
        layer.coefficient.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1))
        layer.bias.copy_(torch.tensor([0.5, 0.0]).view(2, 1, 1))
    x = torch.arange(16.0).view(1, 2, 2, 4)
    assert torch.equal(layer(x), torch.tensor([[[[20.5, 36.5]], [[-42.0, -50.0]]]]))


def test_rbf_units_are_the_negative_square_distance() -> None:
    layer = EuclideanRBF(build_bitmaps())
    assert not [*layer.parameters()]
    scores = layer(build_bitmaps()[3:4] * 0.5)
    expected = [-sum((0.5 * a - b) ** 2 for a, b in zip(build_bitmaps()[3].tolist(), row, strict=True))
                for row in build_bitmaps().tolist()]  # fmt: skip
    torch.testing.assert_close(scores, torch.tensor([expected]))
    assert scores.argmax() == 3


def test_bitmaps_are_ten_clearly_different_drawings() -> None:
    for art in DIGITS:
        rows = art.split()
        assert len(rows) == HEIGHT and {len(row) for row in rows} == {WIDTH} and {*"".join(rows)} == {".", "#"}
    drawn = build_bitmaps()
    assert drawn.shape == (10, 84) and {*drawn.flatten().tolist()} == {-1.0, 1.0}
    apart = [(drawn[i] != drawn[j]).sum().item() for i in range(10) for j in range(i)]
    assert min(apart) == 11, "docs/history.md says 11"


def seen_by(model: nn.Module, first: str, images: torch.Tensor) -> torch.Tensor:
    """What the first layer gets."""
    seen: list[torch.Tensor] = []
    getattr(model, first).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(images)
    return seen[0]


def test_images_have_the_papers_values_and_a_border_of_background() -> None:
    ink = torch.ones(1, 1, 28, 28)
    for net, border in ((LeNet1, 0), (LeNet4, 2), (LeNet5, 2)):
        seen = seen_by(net(), "c1", ink)[0, 0]
        inside = seen[border : border + 28, border : border + 28]
        torch.testing.assert_close(inside, torch.full((28, 28), 1.175))
        assert border == 0 or seen[0].tolist() == pytest.approx([-0.1] * 32)


def test_the_net_of_1989_sees_the_middle_24_by_24_as_16_by_16() -> None:
    image = torch.zeros(1, 1, 28, 28)
    image[..., 2:26, 2:26] = 1
    torch.testing.assert_close(seen_by(LeNet1989(), "h1", image), torch.ones(1, 1, 16, 16))
    torch.testing.assert_close(seen_by(LeNet1989(), "h1", 1 - image), -torch.ones(1, 1, 16, 16))


def test_the_net_of_1989_sees_nearly_all_ink_of_a_digit(mnist_root: Path) -> None:
    """Centred by their mass, a quarter of MNIST's digits have more than 5 % of their ink outside the middle 20×20."""
    images = torchvision_dataset("MNIST", str(mnist_root)).test.images[:1000].float() / 255
    seen = (seen_by(LeNet1989(), "h1", images) + 1) / 2 * (24 / 16) ** 2
    kept = seen.sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert (kept < 0.95).float().mean() < 0.01


def test_beyond_the_border_of_1989_is_background() -> None:
    """A map of background alone gives every unit the same sum, at the edge too."""
    layer = LeNet1989().h1
    with torch.no_grad():
        sums = layer(-torch.ones(1, 1, 16, 16)) - layer.bias
    torch.testing.assert_close(sums, sums[..., :1, :1].expand_as(sums))


@pytest.mark.parametrize("net", HISTORIC)
def test_every_layers_sums_are_squashed(net: type[nn.Module]) -> None:
    """Each layer gets values of the activation, and is called once."""
    model = net(activation="sigmoid")
    names = [*SHAPES[net]][1:]
    order: list[str] = []
    given: dict[str, torch.Tensor] = {}
    for name in names:
        getattr(model, name).register_forward_hook(
            lambda _, inputs, __, name=name: (order.append(name), given.update({name: inputs[0]}))[1]
        )
    model(torch.rand(2, 1, 28, 28))
    assert order == names
    for name in names[1:]:
        assert given[name].min() > 0 and given[name].max() < 1, name


@pytest.mark.parametrize("net", (LeNet1989, LeNet1, LeNet4))
def test_outputs_are_squashed_units_or_plain_sums(net: type[nn.Module]) -> None:
    units = {("scaled_tanh", "tanh"): ScaledTanh, ("tanh", "tanh"): nn.Tanh, ("relu", "tanh"): ScaledTanh,
             ("tanh", "softmax"): nn.Identity}  # fmt: skip
    for (activation, output), kind in units.items():
        assert type(net(activation=activation, output=output).output_units) is kind
    model = net()
    with torch.no_grad():
        model.output.bias.fill_(100)
    assert model(torch.rand(2, 1, 28, 28)).max().item() == pytest.approx(1.7159)


def test_lenet_5_has_rbf_units_for_ten_classes_and_softmax_for_any() -> None:
    settings = Target.model_validate({"_target_": "lenetexp.models.LeNet5"})
    with pytest.raises(UserError, match=r"^model\.output=rbf: .* 10 classes, not 26; model\.output=softmax takes any"):
        build_net(settings, classes=26, image_shape=(1, 28, 28))
    assert build_net(settings, classes=7, image_shape=(1, 28, 28)).output.weight.shape == (7, 84)
    assert sum(layer.parameters for layer in layers(LeNet5, output="softmax")) == 60_850


@pytest.mark.parametrize("name", NETS)
def test_every_net_takes_any_channels_and_batch(name: str) -> None:
    settings = Target.model_validate({"_target_": name, **({"output": "softmax"} if name[-1].isdigit() else {})})
    model = build_net(settings, classes=26, image_shape=(3, 28, 28)).to(memory_format=torch.channels_last)
    images = torch.rand(FEW + 3, 3, 28, 28).to(memory_format=torch.channels_last)
    together, alone = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    model(images[:1]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_public_names_are_those_with_settings() -> None:
    assert {f"lenetexp.models.{name}" for name in models.MODULES} == {*MODELS}
    for name in models.MODULES:
        assert getattr(models, name).__name__ == name


@pytest.mark.parametrize("net", HISTORIC)
def test_a_historic_net_learns(net: type[nn.Module]) -> None:
    """Ten images by heart, within 100 steps of gradient descent on its paper's kind of error."""
    torch.manual_seed(0)
    model = net()
    digits = F.interpolate(build_bitmaps().view(10, 1, 12, 7).clamp(min=0), size=(24, 14))
    images, labels = F.pad(digits, (7, 7, 2, 2)), torch.arange(10)
    rate = 0.002 if net is LeNet5 else 0.02
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(100):
        scores = model(images)
        squares = F.mse_loss(scores, 2 * F.one_hot(labels) - 1.0)
        loss = F.cross_entropy(scores, labels) if net is LeNet5 else squares
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model(images).argmax(1), labels)
