"""The nets. LeNet-5 as a PyTorch tutorial writes it, layer by layer, with the paper's names.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition,
Proceedings of the IEEE 86(11), 1998. The letter of a layer's name is its kind (convolution,
subsampling, full), the number counts all layers.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

from lenetexp.config import Target, UserError, one_line


def scaled_tanh(x: Tensor) -> Tensor:
    """LeCun's 1.7159·tanh(2x/3): f(±1) = ±1 and the largest curvature there (1998, appendix A)."""
    return 1.7159 * torch.tanh(2 / 3 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "scaled_tanh": scaled_tanh,
}


class LeNet(nn.Module):
    """LeNet-5 for N×channels×28×28 images with values in [0, 1]; returns N×classes raw logits.

    With one channel and ten classes it has 61,706 parameters: c1 156, c3 2,416, c5 48,120, f6 10,164,
    output 850. Unlike the paper's, its c3 sees all six maps, its pooling has no weights and its
    output is linear.

    Args:
        classes: number of classes, 1 or more.
        channels: channels of an image, 1 or more.
        activation: a key of `ACTIVATIONS`, after c1 and c3.
        pooling: "avg" or "max".
        head_activation: whether the activation follows c5 and f6 too.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        activation: str = "sigmoid",
        pooling: str = "avg",
        head_activation: bool = False,
    ) -> None:
        super().__init__()
        pool = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pooling]
        self.activation = ACTIVATIONS[activation]
        self.head_activation = self.activation if head_activation else nn.Identity()
        self.c1 = nn.Conv2d(channels, 6, kernel_size=5, padding=2)
        self.s2 = pool(kernel_size=2, stride=2)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.s4 = pool(kernel_size=2, stride=2)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×channels×28×28 images to N×classes logits."""
        x = self.activation(self.c1(x))  # N×6×28×28
        x = self.s2(x)  # N×6×14×14
        x = self.activation(self.c3(x))  # N×16×10×10
        x = self.s4(x)  # N×16×5×5
        # c5's kernel covers its whole input: as a full connection of 400→120 it is the same sum, faster.
        x = F.linear(x.flatten(1), self.c5.weight.flatten(1), self.c5.bias)  # N×120
        x = self.head_activation(x)
        x = self.head_activation(self.f6(x))  # N×84
        return self.output(x)  # N×classes


def build(settings: Target, classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The net that `settings` names, for so many classes and images of this shape, on the CPU.

    A net of one's own is a class that takes `classes` and `channels` beside its settings.

    Args:
        settings: the class and its settings.
        classes: number of classes.
        image_shape: channels, height and width.

    Raises:
        UserError: its class refuses the settings, or it cannot take such images.
    """
    call = {**settings.call(), "classes": classes, "channels": image_shape[0]}
    try:
        model = instantiate(call, _convert_="all")
    except Exception as error:  # whatever the class throws, its settings are what the user can change
        raise UserError(f"model: {settings.name}: {one_line(error.__cause__ or error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model._target_={settings.target}: must make a torch.nn.Module")
    shape = "×".join(str(size) for size in image_shape)
    try:
        with torch.no_grad():
            given = tuple(model.eval()(torch.zeros(2, *image_shape)).shape)
    except Exception as error:
        raise UserError(
            f"model: {settings.name} does not take {shape} images ({one_line(error)[:120]}); "
            "lenet takes 28×28 (dataset.image_size=28)"
        ) from error
    if given != (2, classes):
        raise UserError(
            f"model: {settings.name} must make 2×{classes} logits of two {shape} images, not {given}"
        )
    return model.train()
