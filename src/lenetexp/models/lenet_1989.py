"""The first convolutional net for digits, with the paper's names.

Y. LeCun et al.: Backpropagation applied to handwritten zip code recognition, Neural Computation 1(4), 1989.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenetexp.models.layers import ACTIVATIONS, GAINS, TableConv2d, convolve, draw_weights, make_output_units

# The H1 maps that each of the twelve H2 maps sees. A guess: the paper says that it is 8 of 12, "according to a scheme
# that will not be described here"; these three blocks are those of karpathy/lecun1989-repro.
H2_TABLE = [[*range(8)]] * 4 + [[*range(4, 12)]] * 4 + [[*range(4), *range(8, 12)]] * 4
BACKGROUND = -1.0


class SharedKernels(TableConv2d):
    """5×5 kernels, shared by a map's units, which lie two pixels apart. Each unit has a bias of its own."""

    background: Tensor

    def __init__(self, inputs: int, table: Sequence[Sequence[int]], size: int) -> None:
        super().__init__(inputs, table, kernel_size=5, stride=2)
        # A buffer, because the layer is also asked for its sums of squares (`training.curvature`).
        self.register_buffer("background", torch.tensor(BACKGROUND), persistent=False)
        self.bias: nn.Parameter = nn.Parameter(torch.empty(len(table), size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inputs×2·size×2·size to N×outputs×size×size. Beyond the border is background."""
        bordered = F.pad(x - self.background, (2, 2, 2, 2)) + self.background
        return convolve(bordered, self.build_full_weight(), None, self.stride) + self.bias


class LeNet1989(nn.Module):
    """The net of 1989 for N×channels×28×28 images in [0, 1]. Returns N×classes scores.

    It had 16×16 images in [-1, 1], which the digit filled. MNIST's digits are 20×20, but centred by their mass: the
    middle 24×24, which holds nearly all their ink, is scaled to 16×16 here, so that a digit fills about 13×13. With one
    channel and ten classes it has 9,760 parameters: h1 1,068, h2 2,592, h3 5,790, output 310; 1,256 units, those of the
    image included, and 64,660 connections.

    Args:
        classes: Number of classes.
        channels: Number of channels of an image.
        activation: A key of `ACTIVATIONS`; follows h1, h2 and h3.
        output: "tanh" as in the paper, units in the range of their targets ±1, or "softmax", raw logits.
        init: Initial weights, see `draw_weights`.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        activation: str = "scaled_tanh",
        output: str = "tanh",
        init: str = "xavier",
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.h1 = SharedKernels(channels, [[*range(channels)]] * 12, size=8)
        self.h2 = SharedKernels(12, H2_TABLE, size=4)
        self.h3 = nn.Linear(12 * 4 * 4, 30)
        self.output = nn.Linear(30, classes)
        self.output_units = make_output_units(output, activation)
        for layer in (self.h1, self.h2, self.h3):
            draw_weights(layer, init, GAINS.get(activation, 1.0))
        draw_weights(self.output, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×channels×28×28 images in [0, 1] to N×classes scores."""
        x = F.interpolate(x[..., 2:26, 2:26], size=(16, 16), mode="bilinear", antialias=True)
        x = 2 * x - 1
        x = self.activation(self.h1(x))  # N×12×8×8
        x = self.activation(self.h2(x))  # N×12×4×4
        x = self.activation(self.h3(x.flatten(1)))  # N×30
        return self.output_units(self.output(x))  # N×classes
