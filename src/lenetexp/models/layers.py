"""What several nets share: activations, initial weights, and layers that torch lacks.

LeCun 1989: Backpropagation applied to handwritten zip code recognition. LeCun 1998: Gradient-based learning applied to
document recognition.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaledTanh(nn.Module):
    """LeCun's 1.7159·tanh(2x/3): f(±1) = ±1, where its second derivative is largest (1998, appendix A)."""

    amplitude: Tensor
    slope: Tensor

    def __init__(self) -> None:
        super().__init__()
        # As tensors: numbers would be converted at every call, which takes as long as the tanh of a small map.
        self.register_buffer("amplitude", torch.tensor(1.7159), persistent=False)
        self.register_buffer("slope", torch.tensor(2 / 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.amplitude * torch.tanh(self.slope * x)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "scaled_tanh": ScaledTanh,
}
# How much wider the weights before an activation are drawn, so that signals keep their size: 4 for sigmoid (Glorot and
# Bengio 2010), √2 for relu (He et al. 2015), 5/3 for tanh (`torch.nn.init.calculate_gain`).
GAINS = {"sigmoid": 4.0, "tanh": 5 / 3} | dict.fromkeys(("relu", "leaky_relu"), 2**0.5)

# On a CPU, oneDNN takes twice as long as a plain matrix product for one image, and as long for about this many.
FEW = 4


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """Convolve N×C×H×W without padding to N×K×h×w. Fast for a single image, too."""
    # Compiling and exporting must not see the comparison: it would fix the batch size.
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and len(x) <= FEW:
        size, steps = list(weight.shape[2:]), [stride, stride]
        return torch.ops.aten.thnn_conv2d(x.contiguous(), weight.contiguous(), size, bias, steps)
    return F.conv2d(x, weight, bias, stride)


class QuickConv2d(nn.Conv2d):
    """A convolution without padding that is fast for a single image, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C×H×W to N×K×h×w."""
        return convolve(x, self.weight, self.bias)


class WholeInputConv2d(nn.Conv2d):
    """A convolution whose kernel covers its whole input, computed as a matrix product: a tenth faster on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C×H×W, with H×W the kernel's size, to N×K×1×1."""
        # As channels-last weights lie in memory: in any other order they, and their gradient, would be copied.
        flat, weight = (tensor.permute(0, 2, 3, 1).flatten(1) for tensor in (x, self.weight))
        return F.linear(flat, weight, self.bias)[..., None, None]


class TableConv2d(nn.Module):
    """A convolution whose output map k sees only the input maps in table[k].

    `weight` holds one kernel for each connection in the table, in its order; `bias` one value for each output map.
    """

    places: Tensor

    def __init__(self, inputs: int, table: Sequence[Sequence[int]], kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.inputs, self.table, self.stride = inputs, [list(sources) for sources in table], stride
        places = [k * inputs + i for k, sources in enumerate(self.table) for i in sources]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.weight = nn.Parameter(torch.empty(len(places), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(len(self.table)))
        draw_weights(self, "torch")

    def build_full_weight(self) -> Tensor:
        """Return the outputs × inputs × kernel weight, with zeros where nothing is connected."""
        shape = (len(self.table), self.inputs, *self.weight.shape[1:])
        if len(self.places) == shape[0] * shape[1]:
            return self.weight.view(shape)
        empty = self.weight.new_zeros(shape[0] * shape[1], *shape[2:])
        return empty.index_copy(0, self.places, self.weight).view(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inputs×H×W to N×outputs×h×w."""
        return convolve(x, self.build_full_weight(), self.bias, self.stride)

    def extra_repr(self) -> str:
        size = "×".join(map(str, self.weight.shape[1:]))
        return f"{self.inputs}, {len(self.table)}, connections={len(self.places)}, kernel_size={size}"


class Subsampling(nn.Module):
    """The sum of each 2×2 square, times a coefficient, plus a bias: both trained, one of each per map (LeCun 1998)."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.empty(maps, 1, 1))
        self.bias = nn.Parameter(torch.empty(maps, 1, 1))
        draw_weights(self, "torch")

    def forward(self, x: Tensor) -> Tensor:
        """Map N×maps×2H×2W to N×maps×H×W."""
        # torch's ONNX exporter (2.15) forgets divisor_override without a word. Both ways give the same bits.
        exporting = torch.compiler.is_exporting()
        sums = F.avg_pool2d(x, 2) * 4 if exporting else F.avg_pool2d(x, 2, divisor_override=1)
        return sums * self.coefficient + self.bias

    def extra_repr(self) -> str:
        return f"{len(self.bias)}"


class EuclideanRBF(nn.Module):
    """Negative squared distances to fixed centres: −y_i with y_i = Σ_j (x_j − w_ij)² (LeCun 1998, equation 7).

    The largest wins, and softmax(−y) are probabilities.
    """

    weight: Tensor

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", centres)  # classes × inputs

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inputs to N×classes."""
        return -(x[:, None] - self.weight).square().sum(2)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


def scale_like_scan(x: Tensor, border: int = 0) -> Tensor:
    """Scale values in [0, 1] to those of the papers, −0.1 for background and 1.175 for ink, and add a border.

    MNIST's images then have about mean 0 and variance 1. The border, in pixels, is background.
    """
    return F.pad(x, (border,) * 4) * 1.275 - 0.1  # background −0.1, ink 1.175


def make_output_units(output: str, activation: str) -> nn.Module:
    """Return what follows the last layer's sums: nothing for "softmax"; for "tanh" a unit that suits targets of ±1."""
    if output == "softmax":
        return nn.Identity()
    return ACTIVATIONS[activation]() if "tanh" in activation else ScaledTanh()


@torch.no_grad()
def draw_weights(layer: Any, init: str, gain: float = 1.0) -> None:
    """Draw initial weights uniformly from ± a limit that depends on F, the number of inputs of a unit.

    Args:
        layer: A layer of this module, or a convolution or linear layer of torch.
        init: "lecun": 2.4 / F (LeCun 1989 and 1998). "torch": 1 / √F, torch's default. Both also for biases. "xavier":
            gain · √(6 / (F + outputs)) (Glorot and Bengio 2010), with biases 0.
        gain: Factor for "xavier".
    """
    weight = layer.coefficient if isinstance(layer, Subsampling) else layer.weight
    fan_in, fan_out = _count_fans(layer)
    if init == "xavier":
        weight.uniform_(-1, 1).mul_(gain * (6 / (fan_in + fan_out)) ** 0.5)
        layer.bias.zero_()
        return
    limit = 2.4 / fan_in if init == "lecun" else fan_in**-0.5
    weight.uniform_(-1, 1).mul_(limit)
    if isinstance(layer, TableConv2d):  # of a map's bias: as of the last kernel that leads to it
        last = torch.tensor([len(sources) for sources in layer.table]).cumsum(0) - 1
        limit = limit[last].view(-1, *[1] * (layer.bias.dim() - 1))
    layer.bias.uniform_(-1, 1).mul_(limit)


def _count_fans(layer: Any) -> tuple[Tensor, Tensor]:
    """Count for each kernel the inputs of its unit and the outputs that its input leads to."""
    if isinstance(layer, Subsampling):
        return torch.tensor(4.0), torch.tensor(1.0)
    if isinstance(layer, WholeInputConv2d | nn.Linear):
        weight = layer.weight.flatten(1)
        return torch.tensor(float(weight.shape[1])), torch.tensor(float(weight.shape[0]))
    size = layer.weight.shape[-1] ** 2
    if isinstance(layer, TableConv2d):
        links = [(len(sources), i) for sources in layer.table for i in sources]
        leads = [sum(i in sources for sources in layer.table) for i in range(layer.inputs)]
        both = torch.tensor([(count, leads[i]) for count, i in links]) * float(size)
        return both[:, :1, None], both[:, 1:, None]
    return torch.tensor(float(size * layer.in_channels)), torch.tensor(float(size * layer.out_channels))
