"""The curvature of the diagonal Levenberg-Marquardt step against formulas written out, and against torch's Hessian."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import make_data
from lenetexp.errors import UserError
from lenetexp.models.layers import EuclideanRBF, Subsampling, TableConv2d
from lenetexp.models.lenet import LeNet
from lenetexp.models.lenet_1989 import LeNet1989
from lenetexp.models.losses import CrossEntropy, MaximumAPosteriori, SquaredError
from lenetexp.training.curvature import _propagate, compute_curvature, measure_curvature
from lenetexp.training.optimizers import DiagonalLevenbergMarquardt


def test_of_one_layer_it_is_the_diagonal_of_the_hessian() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    images, labels = torch.randn(5, 1, 2, 3), torch.randint(4, (5,))

    def loss(weight: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(images.flatten(1), weight, layer.bias), labels)

    hessian = torch.autograd.functional.hessian(loss, layer.weight.detach()).view(24, 24)  # type: ignore[no-untyped-call]
    found = compute_curvature(nn.Sequential(nn.Flatten(), layer), CrossEntropy(), images, labels)
    torch.testing.assert_close(found[layer.weight].flatten(), hessian.diagonal())


def test_through_layers_it_is_the_papers_recursion() -> None:
    """Shared weights sum over the places they are used at; tanh passes on its slope's square; a mean of four, 1/16."""
    torch.manual_seed(0)
    conv, full = nn.Conv2d(1, 2, 2), nn.Linear(2, 3)
    image = torch.randn(1, 1, 3, 3)
    model = nn.Sequential(conv, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), full)
    found = compute_curvature(model, SquaredError(), image, torch.tensor([1]))
    with torch.no_grad():
        squashed = conv(image).tanh()  # 1×2×2×2
        of_output = torch.ones(3)  # the second derivative of half a square
        of_pooled = full.weight.square().T @ of_output
        of_sum = of_pooled[:, None, None] / 16 * (1 - squashed[0] ** 2) ** 2  # 2×2×2
        kernel = torch.zeros(2, 2, 2)
        for row in range(2):
            for column in range(2):
                patch = image[0, 0, row : row + 2, column : column + 2]
                kernel += of_sum[:, row, column, None, None] * patch.square()
        torch.testing.assert_close(found[conv.weight][:, 0], kernel)
        torch.testing.assert_close(found[conv.bias], of_sum.sum((1, 2)))  # type: ignore[index]
        torch.testing.assert_close(found[full.weight], squashed.mean((2, 3)).square().expand(3, 2))


def test_measuring_leaves_the_net_as_it_was() -> None:
    model, data = LeNet(activation="scaled_tanh"), make_data(64)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = compute_curvature(model, CrossEntropy(), data.train.images.float() / 255, data.train.labels)
    assert all(bool((values >= 0).all()) and bool(values.any()) for values in found.values())
    assert model.training and not model.c1._forward_hooks and not model.c1._backward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(before, dict(model.state_dict()), rtol=0, atol=0)


def test_each_weight_has_its_own_rate() -> None:
    """lr / (h + mu)."""
    model, loss, split = LeNet(activation="tanh"), CrossEntropy(), make_data(32).train
    optimizer = DiagonalLevenbergMarquardt(model.parameters(), lr=0.1, mu=0.5)
    measure_curvature(model, loss, optimizer, split, seed=0, epoch=1)
    found = compute_curvature(model, loss, split.images.float() / 255, split.labels)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for was, parameter in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(was - parameter.detach(), 0.1 / (found[parameter] + 0.5), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(2),
        nn.RMSNorm(26),
        nn.Softmax2d(),
        nn.LocalResponseNorm(2),
        nn.Upsample(scale_factor=1),
        nn.PReLU(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_without_a_rule_is_named(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Flatten(), nn.Linear(2 * 26 * 26, 10))
    with pytest.raises(UserError, match=f"no rule for a layer of {type(layer).__name__}"):
        compute_curvature(model, CrossEntropy(), torch.rand(4, 1, 28, 28), torch.arange(4))


def test_of_lenet_5s_head_it_is_the_diagonal_of_the_hessian() -> None:
    """RBF units and the paper's criterion are one loss of the units below. So near each other, every class counts."""
    torch.manual_seed(0)
    layer, head, loss = nn.Linear(6, 4), EuclideanRBF(torch.randn(10, 4) / 2), MaximumAPosteriori(j=2.0)
    images, labels = torch.randn(5, 1, 2, 3), torch.randint(10, (5,))
    found = compute_curvature(nn.Sequential(nn.Flatten(), layer, head), loss, images, labels)[layer.bias]
    expected = torch.zeros(4)
    for image, label in zip(layer(images.flatten(1)).detach(), labels, strict=True):
        hessian = torch.autograd.functional.hessian(lambda x: loss(head(x[None]), label[None]), image)  # type: ignore[no-untyped-call]  # noqa: B023
        expected += hessian.diagonal() / len(labels)
    torch.testing.assert_close(found, expected)
    assert (expected - 2).abs().min() > 0.1  # what it would be if no class counted


def test_through_the_papers_own_layers() -> None:
    """A coefficient counts the squares of the four values that it multiplies; a kernel only what its table connects."""
    torch.manual_seed(0)
    x, h = torch.randn(1, 3, 6, 6), torch.rand(1, 3, 3, 3)
    pool = Subsampling(3)
    h_x, (of_coefficient, of_bias) = _propagate(pool, x, None, h)
    fours = x.square().unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5))
    torch.testing.assert_close(of_coefficient, (fours * h).sum((0, 2, 3))[:, None, None])
    torch.testing.assert_close(of_bias, h.sum((0, 2, 3))[:, None, None])
    torch.testing.assert_close(h_x, (pool.coefficient.square() * h).repeat_interleave(2, 2).repeat_interleave(2, 3))

    conv, h = TableConv2d(3, [(0, 2), (1,)], kernel_size=4), torch.rand(1, 2, 3, 3)
    h_x, (of_weight, of_bias) = _propagate(conv, x, None, h)
    torch.testing.assert_close(h_x, F.conv_transpose2d(h, conv.build_full_weight().square()))
    for kernel, (output, seen) in zip(of_weight, [(0, 0), (0, 2), (1, 1)], strict=True):
        patches = x[0, seen].square().unfold(0, 4, 1).unfold(1, 4, 1)  # 3×3×4×4
        torch.testing.assert_close(kernel, torch.einsum("hw,hwij->ij", h[0, output], patches))
    torch.testing.assert_close(of_bias, h.sum((0, 2, 3)))


def test_a_border_of_background_counts_with_its_square() -> None:
    """Of the net of 1989: beyond its first layer's border every input is −1."""
    layer = LeNet1989().h1
    image, h = torch.rand(1, 1, 16, 16), torch.rand(1, 12, 8, 8)
    _, (of_weights, of_biases) = _propagate(layer, image, image, h)
    padded = F.pad(image, (2, 2, 2, 2), value=-1).square()
    places = padded[0, 0].unfold(0, 5, 2).unfold(1, 5, 2)  # 8×8×5×5
    torch.testing.assert_close(of_weights, torch.einsum("khw,hwij->kij", h[0], places))
    torch.testing.assert_close(of_biases, h[0])


class Bare(nn.Module):
    """A weight that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.full, self.scale = nn.Linear(784, 10), nn.Parameter(torch.ones(10))

    def forward(self, images: Tensor) -> Tensor:
        return self.full(images.flatten(1)) * self.scale


def test_a_weight_outside_of_layers_is_named() -> None:
    with pytest.raises(UserError, match="finds no layer that scale is a weight of"):
        compute_curvature(Bare(), CrossEntropy(), torch.rand(4, 1, 28, 28), torch.arange(4))


@pytest.mark.parametrize(("size", "divisor"), [(2, None), ((2, 3), None), (2, 1)])
def test_pooling_is_the_convolution_that_it_is(size: int | tuple[int, int], divisor: int | None) -> None:
    torch.manual_seed(0)
    sides = (size, size) if isinstance(size, int) else size
    pool = nn.AvgPool2d(size, divisor_override=divisor)
    as_conv = nn.Conv2d(1, 1, sides, stride=sides, bias=False)
    nn.init.constant_(as_conv.weight, 1 / (divisor or sides[0] * sides[1]))
    first, last = nn.Conv2d(1, 1, 5), nn.LazyLinear(10)
    images, labels = torch.rand(4, 1, 16, 16), torch.arange(4)
    found = []
    for middle in (pool, as_conv):
        model = nn.Sequential(first, nn.Tanh(), middle, nn.Flatten(), last)
        model(images)
        found.append(compute_curvature(model, CrossEntropy(), images, labels)[first.weight])
    torch.testing.assert_close(*found)


def test_dropout_has_no_part_in_it() -> None:
    """The same before the first epoch as after any: modes are set, and set back."""
    model = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(2 * 24 * 24, 10))
    images, labels = torch.rand(4, 1, 28, 28), torch.arange(4)
    first, again = (compute_curvature(model.train(), CrossEntropy(), images, labels)[model[0].weight] for _ in range(2))
    assert torch.equal(first, again) and model.training
    assert torch.equal(first, compute_curvature(model.eval(), CrossEntropy(), images, labels)[model[0].weight])
