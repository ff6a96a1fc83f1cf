"""The fully connected nets of the 1998 table."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lenetexp.models.layers import ACTIVATIONS, GAINS, draw_weights, make_output_units, scale_like_scan

PIXELS = 28 * 28


class MLP(nn.Module):
    """Full connections from the pixels of a 28×28 image through hidden layers to one unit per class.

    LeCun et al. 1998, section III C: 4.7 % with 300 hidden units, 4.5 % with 1000, 3.05 % with 300 and 100.

    Args:
        classes: Number of classes.
        channels: Number of channels of an image.
        hidden: Number of units of each hidden layer.
        activation: A key of `ACTIVATIONS`; follows each hidden layer.
        init: Initial weights, see `draw_weights`.
        output: "tanh" as in the paper, units in the range of their targets ±1, or "softmax", raw logits.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        hidden: Sequence[int] = (300,),
        activation: str = "scaled_tanh",
        init: str = "xavier",
        output: str = "tanh",
    ) -> None:
        super().__init__()
        sizes = [channels * PIXELS, *hidden, classes]
        self.layers = nn.ModuleList(nn.Linear(*ends) for ends in pairwise(sizes))
        self.activation = ACTIVATIONS[activation]()
        self.output = make_output_units(output, activation)
        *inner, last = self.layers
        for layer in inner:
            draw_weights(layer, init, GAINS.get(activation, 1.0))
        draw_weights(last, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×channels×28×28 images in [0, 1] to N×classes outputs."""
        x = scale_like_scan(x).flatten(1)
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return self.output(last(x))
