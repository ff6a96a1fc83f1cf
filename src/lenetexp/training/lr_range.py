"""The learning-rate range test: train at a rate that rises with every step.

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
    """Train at rates from `low` to `high`, geometrically spaced, until the loss explodes.

    Args:
        training: A net before its first step.
        split: The training images.
        recipe: Batch size, seed and augmentation.
        low: The first rate.
        high: The last rate.
        steps: The number of steps.
        on_step: Called after every step.
    """
    group = training.optimizer.param_groups[0]
    group["lr"] = group["initial_lr"] = low
    rise = LambdaLR(training.optimizer, lambda step: (high / low) ** (step / max(steps - 1, 1)))
    training.schedule = Schedule(rise, "batch")
    results: list[Step] = []
    mean = loss_sum = 0.0

    def on_batch(totals: Totals) -> None:
        """Note the loss of the newest batch alone, from the sums so far.

        Raises:
            Diverged: It is not finite.
        """
        nonlocal mean, loss_sum
        previous_sum, loss_sum = loss_sum, totals.loss_sum.item()
        size = totals.images - (totals.batches - 1) * recipe.batch_size
        loss = (loss_sum - previous_sum) / size
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        step = Step(training.schedule.lr, loss, mean / (1 - SMOOTHING ** (len(results) + 1)))
        if not isfinite(loss):
            raise Diverged(totals.epoch)
        results.append(step)
        on_step(step)
        if len(results) >= steps or step.smooth > EXPLODED * max(results[0].loss, results[0].smooth):
            raise StopIteration

    for epoch in count(1):
        loss_sum = 0.0
        try:
            train_epoch(training, split, recipe, epoch, on_batch)
        except (StopIteration, Diverged):
            break
    return results


@dataclass(frozen=True)
class Suggestion:
    """Learning rates to try. docs/defaults.md compares them with the best ones of sweeps."""

    lowest: float  # at which the loss was lowest

    @property
    def rates(self) -> tuple[float, float, float]:
        """A lower rate, the one to try, and a higher one."""
        best = self.lowest / BELOW
        return best / APART, best, best * APART


def suggest_rates(steps: Sequence[Step]) -> Suggestion | None:
    """Suggest rates from the steps of a test. Return None if the loss did not clearly fall."""
    bottom = min(range(len(steps)), key=lambda i: steps[i].smooth)
    if steps[bottom].smooth > (1 - FALL) * _average_first_losses(steps):
        return None
    return Suggestion(steps[max(bottom - LAG, 0)].lr)


def has_risen(steps: Sequence[Step]) -> bool:
    """Return whether the loss at the end of a test is clearly above its lowest value."""
    lowest = min(step.smooth for step in steps)
    return steps[-1].smooth - lowest > RISEN * (_average_first_losses(steps) - lowest)


def _average_first_losses(steps: Sequence[Step]) -> float:
    """Return the mean loss of the first tenth of the steps, where the rate is too small to learn."""
    return fmean(step.loss for step in steps[: max(len(steps) // 10, 1)])
