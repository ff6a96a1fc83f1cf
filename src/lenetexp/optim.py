"""Optimizers and schedulers as a config names them, when a scheduler is stepped, and what torch lacks of both."""

import inspect
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import cos, nan, pi
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
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
        self.lr = float(self.scheduler.optimizer.param_groups[0]["lr"])
        if self.interval == "batch":
            self.scheduler.step()

    def step_epoch(self, val_loss: float) -> None:
        """To be called after every validation, with its mean loss in nats, which a plateau is judged by."""
        if self.interval == "epoch" and isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(val_loss)
        elif self.interval == "epoch":
            self.scheduler.step()


def build_optimizer(
    settings: targets.Optimizer, parameters: Iterable[nn.Parameter], compiled: bool = False
) -> Optimizer:
    """The optimizer that `settings` name, over `parameters`. Raises `UserError` if its class refuses the settings."""
    if not compiled:
        _forget_compiler()
    optimizer = settings.instantiate("optimizer", Optimizer, list(parameters))
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"optimizer._target_={settings.target}: must step without a closure; the loop computes the loss once a step"
        )
    if not compiled and type(optimizer).__module__.startswith("torch.optim."):
        optimizer.step = unwrap_step(optimizer)  # type: ignore[method-assign, assignment]
    return optimizer


def unwrap_step(optimizer: Optimizer) -> Callable[[], Any]:
    """The step of an optimizer's class, without what a scheduler of torch's puts around it.

    Of torch's own also without their wrapper, which imports the compiler and takes a tenth of a small net's step.
    """
    step = type(optimizer).step
    if type(optimizer).__module__.startswith("torch.optim."):
        step = torch.no_grad()(inspect.unwrap(step))
    return MethodType(step, optimizer)


def _forget_compiler() -> None:
    """Spares a run that compiles nothing the import of torch's compiler: 1.4 s.

    Some methods of optimizers import it only to be hidden from it, and note under this name that they are.
    """
    for method in vars(Optimizer).values():
        if plain := getattr(method, "__wrapped__", None):
            plain.__dict__.setdefault("__dynamo_disable", plain)


def build_schedule(settings: targets.Scheduler, optimizer: Optimizer, steps_per_epoch: int, epochs: int) -> Schedule:
    """The scheduler that `settings` name, for so many batches an epoch; raises `UserError` if it cannot work."""
    asked = settings.build_call().get("steps_per_epoch")
    if asked is not None and settings.interval == "epoch":
        raise UserError("scheduler.interval=epoch: must be batch for a schedule with steps_per_epoch")
    counted = {"steps_per_epoch": steps_per_epoch} if asked == "auto" else {}
    scheduler = settings.instantiate("scheduler", LRScheduler, optimizer, **counted)
    if isinstance(scheduler, ReduceLROnPlateau) and settings.interval == "batch":
        raise UserError("scheduler.interval=batch: must be epoch for a plateau, which is judged by the validation loss")
    if settings.target == f"{__name__}.piecewise" and settings.interval == "batch":
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


def piecewise(optimizer: Optimizer, starts: Sequence[int], factors: Sequence[float]) -> LambdaLR:
    """From epoch `starts[i]` on (the first is 1), `factors[i]` of the optimizer's learning rate.

    Raises `UserError` if the two lists do not fit.
    """
    if list(starts) != sorted({*starts}) or not starts or starts[0] != 1:
        raise UserError(f"scheduler.starts={list(starts)}: must be epochs that rise from 1, as [1,3,6]")
    if len(factors) != len(starts):
        raise UserError(f"scheduler.factors={list(factors)}: must be as many as scheduler.starts, {len(starts)}")
    return LambdaLR(optimizer, lambda epoch: factors[bisect(starts, epoch + 1) - 1])


class DiagonalLevenbergMarquardt(Optimizer):
    """The stochastic diagonal Levenberg-Marquardt step that LeNet-5 was trained with, one image at a time.

    Every weight has its own rate, `lr` / (h + `mu`), with h the mean second derivative of the loss by this weight over
    `samples` training images. The loop measures h before each epoch (`training.curvature`); the rates are fixed during
    the epoch. LeCun, Bottou, Orr and Müller: Efficient BackProp (1998), section 9.1; LeCun et al. (1998), appendix C.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, mu: float = 0.02, samples: int = 500) -> None:
        super().__init__(params, {"lr": lr, "mu": mu, "samples": samples})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["scale"] = torch.full_like(parameter, 1 / mu)

    def set_curvature(self, parameter: nn.Parameter, curvature: Tensor) -> None:
        """Sets the rates of a parameter's weights, `curvature` being h, not negative, in the parameter's shape."""
        mu = next(group["mu"] for group in self.param_groups if any(parameter is own for own in group["params"]))
        self.state[parameter]["scale"] = 1 / (curvature + mu)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step against the gradients; a weight without one stays."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            scales = [self.state[parameter]["scale"] for parameter in moved]
            torch._foreach_addcmul_(moved, [parameter.grad for parameter in moved], scales, -group["lr"])


def make_mean_update(decay: float) -> Callable[[Any, Any, Any], None]:
    """The update of an exponential mean of weights, for torch's `AveragedModel`.

    In the first steps the decay is lower, so that the first weights are soon forgotten: (1 + n) / (10 + n) after n
    steps, as in TensorFlow's ExponentialMovingAverage.
    """

    @torch.no_grad()
    def update(means: Any, weights: Any, steps: Any) -> None:
        done = int(steps)
        torch._foreach_lerp_(means, weights, 1 - min(decay, (1 + done) / (10 + done)))

    return update
