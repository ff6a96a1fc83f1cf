"""Learning-rate schedules as a config names them, when they are stepped, and those that torch lacks."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, nan, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lenetexp.config import targets
from lenetexp.errors import UserError


@dataclass
class Schedule:
    """A scheduler and when it is stepped."""

    scheduler: LRScheduler
    interval: str  # "batch" or "epoch"
    lr: float = nan  # the learning rate of the newest step

    def step_batch(self) -> None:
        """Note the learning rate of the step that was taken, and advance a schedule that counts batches."""
        self.lr = float(self.scheduler.optimizer.param_groups[0]["lr"])
        if self.interval == "batch":
            self.scheduler.step()

    def step_epoch(self, val_loss: float) -> None:
        """Advance a schedule that counts epochs. Call this after every validation.

        Args:
            val_loss: The mean validation loss, by which a plateau is judged.
        """
        if self.interval == "epoch" and isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(val_loss)
        elif self.interval == "epoch":
            self.scheduler.step()


def build_schedule(settings: targets.Scheduler, optimizer: Optimizer, steps_per_epoch: int, epochs: int) -> Schedule:
    """Build the schedule that `settings` name.

    Raises:
        UserError: It cannot work with this run's number of steps.
    """
    steps_setting = settings.build_call().get("steps_per_epoch")
    if steps_setting is not None and settings.interval == "epoch":
        raise UserError("scheduler.interval=epoch: must be batch for a schedule with steps_per_epoch")
    arguments = {"steps_per_epoch": steps_per_epoch} if steps_setting == "auto" else {}
    scheduler = settings.instantiate("scheduler", LRScheduler, optimizer, **arguments)
    if isinstance(scheduler, ReduceLROnPlateau) and settings.interval == "batch":
        raise UserError("scheduler.interval=batch: must be epoch for a plateau, which is judged by the validation loss")
    if settings.target == "lenetexp.training.piecewise" and settings.interval == "batch":
        raise UserError("scheduler.interval=batch: must be epoch for piecewise, whose starts are epochs")
    steps = epochs * (steps_per_epoch if settings.interval == "batch" else 1)
    if isinstance(scheduler, OneCycleLR) and scheduler.total_steps < steps:
        raise UserError(
            f"scheduler: {settings.name} ends after {scheduler.total_steps} steps, but the run has "
            f"{steps}; scheduler.epochs must be at least {epochs}"
        )
    return Schedule(scheduler, settings.interval)


def warmup_cosine(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup: float = 0.2, final: float = 0.0
) -> LambdaLR:
    """Rise linearly to the optimizer's learning rate, then fall by half a cosine.

    The cosine is that of Loshchilov and Hutter (SGDR, 2017) without restarts.

    Args:
        optimizer: The optimizer.
        epochs: Length of the whole schedule.
        steps_per_epoch: Batches per epoch.
        warmup: Share of the schedule that rises, in [0, 1).
        final: Last learning rate, as a share of the optimizer's.
    """
    total = epochs * steps_per_epoch
    top = warmup * total

    def factor(step: int) -> float:
        if step < top:
            return (step + 1) / (top + 1)
        progress = min((step - top) / (total - top), 1.0)
        return final + (1 - final) * (1 + cos(pi * progress)) / 2

    return LambdaLR(optimizer, factor)


def piecewise(optimizer: Optimizer, starts: Sequence[int], factors: Sequence[float]) -> LambdaLR:
    """From epoch `starts[i]` on, use `factors[i]` times the optimizer's learning rate. The first epoch is 1.

    Raises:
        UserError: The two lists do not fit.
    """
    if list(starts) != sorted({*starts}) or not starts or starts[0] != 1:
        raise UserError(f"scheduler.starts={list(starts)}: must be epochs that rise from 1, as [1,3,6]")
    if len(factors) != len(starts):
        raise UserError(f"scheduler.factors={list(factors)}: must be as many as scheduler.starts, {len(starts)}")
    return LambdaLR(optimizer, lambda epoch: factors[bisect(starts, epoch + 1) - 1])
