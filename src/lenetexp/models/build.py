"""Any net that a config names, checked against the images before training starts."""

import torch
from torch import nn

from lenetexp.config.schema import Target
from lenetexp.errors import UserError, one_line


def build(settings: Target, classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The net that `settings` name, for so many classes and images of this shape (C, H, W), on the CPU.

    A custom net's class takes `classes` and `channels` beside its settings. Raises `UserError` if the net does not fit.
    """
    model = settings.make("model", nn.Module, classes=classes, channels=image_shape[0])
    size = "×".join(map(str, image_shape))
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(2, *image_shape)).shape)
    except Exception as error:
        raise UserError(
            f"model: {settings.name} does not take {size} images ({one_line(error)[:120]}); "
            "lenet takes 28×28 (dataset.image_size=28)"
        ) from error
    if shape != (2, classes):
        raise UserError(f"model: {settings.name} must return 2×{classes} logits for two {size} images, not {shape}")
    return model.train()
