"""LeNet-1, LeNet-4 and LeNet-5 as in the papers, layer by layer, with the papers' names.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition, Proceedings of the
IEEE 86(11), 1998. The letter of a layer's name is its kind (convolution, subsampling, full connection), the number
counts all layers. Units of all layers, those of the subsampling too, squash their sums with the activation.

`LeNet` is what tutorials call LeNet-5.
"""

from torch import Tensor, nn

from lenetexp.errors import UserError
from lenetexp.models.bitmaps import build_bitmaps
from lenetexp.models.layers import (
    ACTIVATIONS,
    GAINS,
    EuclideanRBF,
    QuickConv2d,
    Subsampling,
    TableConv2d,
    WholeInputConv2d,
    draw_weights,
    make_output_units,
    scale_like_scan,
)  # fmt: skip


class LeNet1(nn.Module):
    """LeNet-1 for N×channels×28×28 images with values in [0, 1]; returns N×classes scores.

    With one channel and ten classes it has 2,578 parameters: c1 104, s2 8, c3 512, s4 24, output 1,930; 98,442
    connections (Y. LeCun et al.: Handwritten digit recognition with a back-propagation network, NIPS 2, 1990). Its
    images held digits of 16×16; MNIST's are of 20×20, and used as they are. A guess: the table of c3, which has the
    paper's number of kernels, 20, but is drawn from memory.

    `activation`, of `ACTIVATIONS`, follows each layer but the last. `output` is "tanh" as in the papers, units in the
    range of their targets ±1, or "softmax": raw logits. `init` draws the weights: see `draw_weights`.
    """

    # Each half of c3 sees one half of s2: one map alone, both, both, the other alone, both, both.
    C3_TABLE = ((0,), (0, 1), (0, 1), (1,), (0, 1), (0, 1), (2,), (2, 3), (2, 3), (3,), (2, 3), (2, 3))

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
        self.c1 = QuickConv2d(channels, 4, kernel_size=5)
        self.s2 = Subsampling(4)
        self.c3 = TableConv2d(4, self.C3_TABLE, kernel_size=5)
        self.s4 = Subsampling(12)
        self.output = nn.Linear(12 * 4 * 4, classes)
        self.output_units = make_output_units(output, activation)
        for layer in (self.c1, self.s2, self.c3, self.s4):
            draw_weights(layer, init, GAINS.get(activation, 1.0))
        draw_weights(self.output, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×channels×28×28 images in [0, 1] to N×classes scores."""
        x = self.activation(self.c1(scale_like_scan(x)))  # N×4×24×24
        x = self.activation(self.s2(x))  # N×4×12×12
        x = self.activation(self.c3(x))  # N×12×8×8
        x = self.activation(self.s4(x))  # N×12×4×4
        return self.output_units(self.output(x.flatten(1)))  # N×classes


class LeNet4(nn.Module):
    """A reconstruction of LeNet-4 for N×channels×28×28 images with values in [0, 1]; returns N×classes scores.

    The paper says, as far as it is remembered: 32×32 images, 4 maps, 8 subsampling maps in pairs, 16 maps, 16
    subsampling maps, 120 units, 10 units; about 17,000 parameters and 260,000 connections. A full c5 alone would have
    48,120 parameters. Three guesses make it 16,998 and 258,306:

    - c3 has 60 kernels, as LeNet-5's, in the manner of its Table I: with the maps of s2 in a ring, 4 maps see 3
      neighbours, 8 see 4 neighbours, 4 see two pairs of neighbours.
    - Of c5's 120 units, 80 see the whole of 5 maps of s4, 40 the whole of 4: 560 kernels.
    - Which maps those are: with the maps of s4 in a ring, each, each second, third, fifth or seventh one from a first.

    With one channel and ten classes: c1 104, s2 16, c3 1,516, s4 32, c5 14,120, output 1,210. The settings are
    `LeNet1`'s.
    """

    # Each map of c1 is the input of two of s2, 0 of 0 and 1, 1 of 2 and 3, …
    C3_TABLE = (
        *(tuple((first + step) % 8 for step in range(3)) for first in (0, 2, 4, 6)),
        *(tuple((first + step) % 8 for step in range(4)) for first in range(8)),
        *((first, first + 1, first + 4, (first + 5) % 8) for first in range(4)),
    )
    C5_TABLE = (
        *(tuple((first + i * step) % 16 for i in range(5)) for step in (1, 2, 3, 5, 7) for first in range(16)),
        *(tuple((first + i * step) % 16 for i in range(4)) for step in (1, 3) for first in range(16)),
        *(tuple((first + i * 5) % 16 for i in range(4)) for first in range(8)),
    )

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
        self.c1 = QuickConv2d(channels, 4, kernel_size=5)
        self.s2 = Subsampling(8)
        self.c3 = TableConv2d(8, self.C3_TABLE, kernel_size=5)
        self.s4 = Subsampling(16)
        self.c5 = TableConv2d(16, self.C5_TABLE, kernel_size=5)
        self.output = nn.Linear(120, classes)
        self.output_units = make_output_units(output, activation)
        for layer in (self.c1, self.s2, self.c3, self.s4, self.c5):
            draw_weights(layer, init, GAINS.get(activation, 1.0))
        draw_weights(self.output, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×channels×28×28 images in [0, 1] to N×classes scores."""
        x = self.activation(self.c1(scale_like_scan(x, border=2)))  # N×4×28×28
        x = self.activation(self.s2(x.repeat_interleave(2, dim=1)))  # N×8×14×14
        x = self.activation(self.c3(x))  # N×16×10×10
        x = self.activation(self.s4(x))  # N×16×5×5
        x = self.activation(self.c5(x)).flatten(1)  # N×120
        return self.output_units(self.output(x))  # N×classes


class LeNet5(nn.Module):
    """LeNet-5 for N×channels×28×28 images with values in [0, 1]; returns N×classes scores.

    With one channel it has 60,000 parameters: c1 156, s2 12, c3 1,516, s4 32, c5 48,120, f6 10,164; 340,908
    connections. Images are padded to 32×32.

    `activation`, of `ACTIVATIONS`, follows each layer but the last. `output` is "rbf" as in the paper: how far f6 is
    from the fixed bitmap of each of up to ten classes, negative, so that the largest wins; or "softmax": a linear layer
    (84·classes + classes parameters more) to raw logits. `init` draws the weights: see `draw_weights`. A guess: the
    bitmaps.
    """

    # The maps of s2 that each map of c3 sees (the paper's Table I).
    C3_TABLE = (
        *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
        *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
        *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
        (0, 1, 2, 3, 4, 5),
    )

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        activation: str = "scaled_tanh",
        output: str = "rbf",
        init: str = "xavier",
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.c1 = QuickConv2d(channels, 6, kernel_size=5)
        self.s2 = Subsampling(6)
        self.c3 = TableConv2d(6, self.C3_TABLE, kernel_size=5)
        self.s4 = Subsampling(16)
        self.c5 = WholeInputConv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = _make_rbf(classes) if output == "rbf" else nn.Linear(84, classes)
        for layer in (self.c1, self.s2, self.c3, self.s4, self.c5, self.f6):
            draw_weights(layer, init, GAINS.get(activation, 1.0))
        if output != "rbf":
            draw_weights(self.output, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×channels×28×28 images in [0, 1] to N×classes scores."""
        x = self.activation(self.c1(scale_like_scan(x, border=2)))  # N×6×28×28
        x = self.activation(self.s2(x))  # N×6×14×14
        x = self.activation(self.c3(x))  # N×16×10×10
        x = self.activation(self.s4(x))  # N×16×5×5
        x = self.activation(self.c5(x)).flatten(1)  # N×120
        x = self.activation(self.f6(x))  # N×84
        return self.output(x)  # N×classes


def _make_rbf(classes: int) -> EuclideanRBF:
    centres = build_bitmaps(classes)
    if len(centres) < classes:
        raise UserError(
            f"model.output=rbf: has bitmaps for {len(centres)} classes, not {classes}; model.output=softmax takes any "
            "number"
        )
    return EuclideanRBF(centres)
