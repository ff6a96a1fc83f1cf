"""The learning-rate range test: training at a rate that rises from step to step.

L. N. Smith: Cyclical learning rates for training neural networks, WACV 2017, section 3.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import isfinite
from statistics import fmean

from torch.optim.lr_scheduler import LambdaLR

from lenetexp.datasets.splits import Split
from lenetexp.training.evaluate import Diverged, Totals
from lenetexp.training.loop import Recipe, train_epoch
from lenetexp.training.schedules import Schedule
from lenetexp.training.state import Training

SMOOTHING = 0.9  # of the exponential mean of the losses
EXPLODED = 2.0  # times the first loss: later steps would only show larger numbers
LAG = round(SMOOTHING / (1 - SMOOTHING))  # steps by which the smoothed losses are late
FALL = 0.3  # share of the first losses by which they must fall: of small batches, less is noise
RISEN = 0.2  # share of the fall that the loss must have lost at the end, or the range ends too early
# The rate to try is so many times below that of the lowest loss; the rates around it are so many times apart.
BELOW, APART = 1.5, 3.0


@dataclass(frozen=True)
class Step:
    """A step of the test."""

    lr: float
    loss: float  # of its batch, in nats an example
    smooth: float  # exponential mean of the losses up to here, corrected for its start as Adam's are


def run_range_test(
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


@dataclass(frozen=True)
class Suggestion:
    """Rates to try: docs/defaults.md compares them with the best ones of sweeps."""

    lowest: float  # at which the loss was lowest

    @property
    def rates(self) -> tuple[float, float, float]:
        """A lower one, the one to try, a higher one."""
        best = self.lowest / BELOW
        return best / APART, best, best * APART


def suggest_rates(steps: Sequence[Step]) -> Suggestion | None:
    """Suggest rates from the steps of a test; None if the loss did not fall clearly."""
    bottom = min(range(len(steps)), key=lambda i: steps[i].smooth)
    if steps[bottom].smooth > (1 - FALL) * _average_first_losses(steps):
        return None
    return Suggestion(steps[max(bottom - LAG, 0)].lr)


def has_risen(steps: Sequence[Step]) -> bool:
    """Whether the loss is clearly above its lowest value at the end of a test."""
    lowest = min(step.smooth for step in steps)
    return steps[-1].smooth - lowest > RISEN * (_average_first_losses(steps) - lowest)


def _average_first_losses(steps: Sequence[Step]) -> float:
    """The mean loss of the first tenth, where the rate is too small to learn."""
    return fmean(step.loss for step in steps[: max(len(steps) // 10, 1)])
