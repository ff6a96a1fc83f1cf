"""Optimizers and schedulers: torch's own objects, and when a scheduler is stepped."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lenetexp import config
from lenetexp.config import UserError, one_line


@dataclass
class Schedule:
    """A scheduler with the moment at which it is stepped."""

    scheduler: LRScheduler
    interval: str  # "batch" or "epoch"

    def after_batch(self) -> None:
        """Called after every optimizer step."""
        if self.interval == "batch":
            self.scheduler.step()

    def after_epoch(self, val_loss: float) -> None:
        """Called after every validation, with its mean loss in nats, which a plateau is seen in."""
        if self.interval != "epoch":
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(val_loss)
        else:
            self.scheduler.step()


def build_optimizer(settings: config.Optimizer, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer that `settings` names, over `parameters`.

    Raises:
        UserError: its class refuses the settings.
    """
    optimizer = _build("optimizer", settings, settings.call(), list(parameters))
    optimizer = _is_a(Optimizer, optimizer, "optimizer", settings)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"optimizer._target_={settings.target}: must step without a closure; one that evaluates "
            "the loss again within a step does not fit the loop"
        )
    return optimizer


def build_schedule(
    settings: config.Scheduler, optimizer: Optimizer, steps_per_epoch: int, epochs: int
) -> Schedule:
    """The scheduler that `settings` names, over `optimizer`.

    Args:
        settings: where steps_per_epoch is "auto", the counted one is put in.
        optimizer: whose learning rate is scheduled.
        steps_per_epoch: batches an epoch.
        epochs: epochs of the run.

    Raises:
        UserError: its class refuses the settings, or it would be stepped at the wrong moments.
    """
    call = settings.call()
    if "steps_per_epoch" in call and settings.interval == "epoch":
        raise UserError("scheduler.interval=epoch: must be batch for a schedule with steps_per_epoch")
    if call.get("steps_per_epoch") == "auto":
        call["steps_per_epoch"] = steps_per_epoch
    scheduler = _is_a(LRScheduler, _build("scheduler", settings, call, optimizer), "scheduler", settings)
    if isinstance(scheduler, ReduceLROnPlateau) and settings.interval == "batch":
        raise UserError(
            "scheduler.interval=batch: must be epoch for a plateau, which is seen in the validation loss"
        )
    steps = epochs * (steps_per_epoch if settings.interval == "batch" else 1)
    if isinstance(scheduler, OneCycleLR) and scheduler.total_steps < steps:
        raise UserError(
            f"scheduler: {settings.name} is over after {scheduler.total_steps} steps, but the run has "
            f"{steps}; scheduler.epochs must be at least {epochs}"
        )
    return Schedule(scheduler, settings.interval)


def warmup_cosine(
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
    warmup: float = 0.2,
    final: float = 0.0,
) -> LambdaLR:
    """A straight rise to the optimizer's learning rate, then half a cosine down to `final` of it.

    The cosine is that of Loshchilov and Hutter (SGDR, 2017) without restarts. The learning rate is
    a function of the step alone.

    Args:
        optimizer: whose learning rate is scheduled.
        epochs: length of the whole schedule.
        steps_per_epoch: optimizer steps an epoch.
        warmup: length of the rise, as a share of the schedule, from 0 to below 1.
        final: where the cosine ends, as a share of the learning rate.
    """
    total = epochs * steps_per_epoch
    top = warmup * total

    def factor(step: int) -> float:
        if step < top:
            return (step + 1) / (top + 1)
        done = min((step - top) / (total - top), 1.0)
        return final + (1 - final) * (1 + cos(pi * done)) / 2

    return LambdaLR(optimizer, factor)


def _build(group: str, settings: config.Target, call: dict[str, Any], first: Any) -> Any:
    try:
        # torch asserts some of its arguments; whatever it refuses, the user can put right.
        return instantiate(call, first, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        given = ", ".join(f"{key}={value}" for key, value in call.items() if key != "_target_")
        raise UserError(f"{group}: {settings.name}({given}): {one_line(cause)}") from error


def _is_a(kind: type, built: Any, group: str, settings: config.Target) -> Any:
    if not isinstance(built, kind):
        raise UserError(f"{group}._target_={settings.target}: must make a torch {kind.__name__}")
    return built
