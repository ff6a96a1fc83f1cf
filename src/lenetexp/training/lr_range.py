"""The learning-rate range test: training at a rate that rises from step to step.

L. N. Smith: Cyclical learning rates for training neural networks, WACV 2017, section 3.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import isfinite, log

from torch.optim.lr_scheduler import LambdaLR

from lenetexp.datasets.load import Split
from lenetexp.optim import Schedule
from lenetexp.training.evaluate import Diverged, Totals
from lenetexp.training.loop import Recipe, train_epoch
from lenetexp.training.state import Training

SMOOTHING = 0.9  # of the exponential mean of the losses
EXPLODED = 2.0  # times the first loss: later steps would only show larger numbers
# The range: from where this share of the loss's whole fall is reached, to half the rate of the lowest loss.
BEGUN, MARGIN = 0.1, 2.0


@dataclass(frozen=True)
class Step:
    """A step of the test."""

    lr: float
    loss: float  # of its batch, in nats an example
    smooth: float  # exponential mean of the losses up to here, corrected for its start as Adam's are


def lr_range(
    training: Training,
    split: Split,
    recipe: Recipe,
    low: float,
    high: float,
    steps: int,
    on_step: Callable[[Step], None] = lambda step: None,
) -> list[Step]:
    """Trains for `steps` steps at rates from `low` to `high`, as many as it takes until the loss explodes."""
    group = training.optimizer.param_groups[0]
    group["lr"] = group["initial_lr"] = low
    rise = LambdaLR(training.optimizer, lambda step: (high / low) ** (step / max(steps - 1, 1)))
    training.schedule = Schedule(rise, "batch")
    found: list[Step] = []
    mean = summed = 0.0

    def on_batch(totals: Totals) -> None:
        """Notes the loss of the newest batch alone, from the sums so far; raises `Diverged` if it is not finite."""
        nonlocal mean, summed
        before, summed = summed, totals.loss_sum.item()
        size = totals.images - (totals.batches - 1) * recipe.batch_size
        loss = (summed - before) / size
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        step = Step(training.schedule.lr, loss, mean / (1 - SMOOTHING ** (len(found) + 1)))
        if not isfinite(loss):
            raise Diverged(totals.epoch)
        found.append(step)
        on_step(step)
        if len(found) >= steps or step.smooth > EXPLODED * max(found[0].loss, found[0].smooth):
            raise StopIteration

    for epoch in count(1):
        summed = 0.0
        try:
            train_epoch(training, split, recipe, epoch, on_batch)
        except (StopIteration, Diverged):
            break
    return found


def suggested(steps: Sequence[Step]) -> tuple[float, float, float] | None:
    """The lowest, the best and the highest rate to try; None if the loss did not fall.

    The best is where the loss falls fastest per factor of the rate, as in Smith's successors; it lies in the range.
    """
    losses = [step.smooth for step in steps]
    if len(steps) < 10:
        return None
    bottom = min(range(len(losses)), key=losses.__getitem__)
    start = losses[0]
    fall = start - losses[bottom]
    if fall < 0.05 * start:
        return None
    # Of a small batch, the first losses jump: the last step that had not fallen yet counts.
    low = steps[max((i for i in range(bottom) if start - losses[i] < BEGUN * fall), default=0) + 1].lr
    high = max(steps[bottom].lr / MARGIN, low)
    width = max(len(steps) // 20, 1)
    slope = {
        i: (losses[i + width] - losses[i - width]) / log(steps[i + width].lr / steps[i - width].lr)
        for i in range(width, min(bottom + 1, len(steps) - width))
        if low <= steps[i].lr <= high
    }
    best = steps[min(slope, key=slope.__getitem__)].lr if slope else (low * high) ** 0.5
    return low, best, high
