"""Schedules that torch does not have. The learning rate is a function of the step alone."""

from math import cos, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float = 0.2, final: float = 0.0
) -> LambdaLR:
    """A linear rise to the optimizer's learning rate, then half a cosine down to `final` of it.

    The cosine is that of Loshchilov and Hutter (SGDR, 2017) without restarts.

    Args:
        optimizer: whose learning rate is scheduled.
        epochs: length of the whole schedule.
        steps_per_epoch: optimizer steps an epoch.
        warmup: length of the rise, as a share of the schedule, from 0 to below 1.
        final: end of the cosine, as a share of the learning rate.
    """
    total = epochs * steps_per_epoch
    top = warmup * total

    def factor(step: int) -> float:
        if step < top:
            return (step + 1) / (top + 1)
        done = min((step - top) / (total - top), 1.0)
        return final + (1 - final) * (1 + cos(pi * done)) / 2

    return LambdaLR(optimizer, factor)
