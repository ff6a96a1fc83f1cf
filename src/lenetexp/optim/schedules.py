"""Schedules that torch does not have. The learning rate is a function of the step alone."""

from math import cos, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float = 0.2, final: float = 0.0
) -> LambdaLR:
    """A linear rise to the optimizer's learning rate, then half a cosine down to `final` of it.

    The cosine is that of Loshchilov and Hutter (SGDR, 2017) without restarts. `epochs` is the length of the whole
    schedule, `warmup` the share of it that rises, from 0 to below 1, and `final` a share of the learning rate.
    """
    total = epochs * steps_per_epoch
    top = warmup * total

    def factor(step: int) -> float:
        if step < top:
            return (step + 1) / (top + 1)
        done = min((step - top) / (total - top), 1.0)
        return final + (1 - final) * (1 + cos(pi * done)) / 2

    return LambdaLR(optimizer, factor)
