"""LeNet-5 as a PyTorch tutorial writes it, layer by layer, with the paper's names.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition, Proceedings of the
IEEE 86(11), 1998. The letter of a layer's name is its kind (convolution, subsampling, full connection), the number
counts all layers.
"""

from torch import Tensor, nn

from lenetexp.models.layers import ACTIVATIONS, GAINS, WholeInputConv2d, draw_weights


class LeNet(nn.Module):
    """LeNet-5 for N×channels×28×28 images in [0, 1]. Returns N×classes logits.

    With one channel and ten classes it has 61,706 parameters: c1 156, c3 2,416, c5 48,120, f6 10,164, output 850.
    Unlike the paper's net, its c3 sees all six maps, its pooling has no weights and its output is linear.

    Args:
        classes: Number of classes.
        channels: Number of channels of an image.
        activation: A key of `ACTIVATIONS`; follows c1 and c3.
        pooling: "avg" or "max".
        head_activation: Whether the activation also follows c5 and f6.
        init: "torch", its default weights, or "xavier" (Glorot and Bengio 2010) with `GAINS`.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        activation: str = "sigmoid",
        pooling: str = "avg",
        head_activation: bool = False,
        init: str = "torch",
    ) -> None:
        super().__init__()
        pool = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pooling]
        self.activation = ACTIVATIONS[activation]()
        self.head_activation = self.activation if head_activation else nn.Identity()
        self.c1 = nn.Conv2d(channels, 6, kernel_size=5, padding=2)
        self.s2 = pool(kernel_size=2, stride=2)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.s4 = pool(kernel_size=2, stride=2)
        self.c5 = WholeInputConv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)
        if init == "xavier":
            gain = GAINS.get(activation, 1.0)
            head_gain = gain if head_activation else 1.0
            for layer, layer_gain in zip(
                (self.c1, self.c3, self.c5, self.f6, self.output), (gain, gain, head_gain, head_gain, 1.0), strict=True
            ):
                draw_weights(layer, "xavier", layer_gain)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×channels×28×28 images in [0, 1] to N×classes logits."""
        x = self.activation(self.c1(x))  # N×6×28×28
        x = self.s2(x)  # N×6×14×14
        x = self.activation(self.c3(x))  # N×16×10×10
        x = self.s4(x)  # N×16×5×5
        x = self.head_activation(self.c5(x)).flatten(1)  # N×120
        x = self.head_activation(self.f6(x))  # N×84
        return self.output(x)  # N×classes
