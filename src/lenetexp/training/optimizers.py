"""Optimizers as a config names them, and what torch lacks of them."""

import inspect
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lenetexp.config import targets
from lenetexp.errors import UserError


def build_optimizer(
    settings: targets.Optimizer, parameters: Iterable[nn.Parameter], is_compiled: bool = False
) -> Optimizer:
    """Build the optimizer that `settings` name.

    Args:
        settings: The class and its arguments.
        parameters: The weights to train.
        is_compiled: Whether the run uses torch's compiler.

    Raises:
        UserError: The class refuses the settings, or needs a closure.
    """
    if not is_compiled:
        _forget_compiler()
    optimizer = settings.instantiate("optimizer", Optimizer, list(parameters))
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"optimizer._target_={settings.target}: must step without a closure; the loop computes the loss once a step"
        )
    if not is_compiled and type(optimizer).__module__.startswith("torch.optim."):
        optimizer.step = unwrap_step(optimizer)  # type: ignore[method-assign, assignment]
    return optimizer


def unwrap_step(optimizer: Optimizer) -> Callable[[], Any]:
    """Return the step of an optimizer's class, without what a torch scheduler wraps around it.

    Of torch's own optimizers also without their wrapper, which imports the compiler and takes a tenth of a small net's
    step.
    """
    step = type(optimizer).step
    if type(optimizer).__module__.startswith("torch.optim."):
        step = torch.no_grad()(inspect.unwrap(step))
    return MethodType(step, optimizer)


def _forget_compiler() -> None:
    """Spare a run that compiles nothing the import of torch's compiler, 1.4 s.

    Some methods of optimizers import it only to be hidden from it, and note under this name that they are.
    """
    for method in vars(Optimizer).values():
        if plain := getattr(method, "__wrapped__", None):
            plain.__dict__.setdefault("__dynamo_disable", plain)


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
        """Set the rates of a parameter's weights.

        Args:
            parameter: One of this optimizer's parameters.
            curvature: h, at least 0, in the parameter's shape.
        """
        mu = next(group["mu"] for group in self.param_groups if any(parameter is own for own in group["params"]))
        self.state[parameter]["scale"] = 1 / (curvature + mu)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step against the gradients. A weight without one stays."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            scales = [self.state[parameter]["scale"] for parameter in parameters]
            torch._foreach_addcmul_(parameters, [parameter.grad for parameter in parameters], scales, -group["lr"])


def make_mean_update(decay: float) -> Callable[[Any, Any, Any], None]:
    """Make the update of an exponential mean of weights, for torch's `AveragedModel`.

    In the first steps the decay is lower, so that the first weights are soon forgotten: (1 + n) / (10 + n) after n
    steps, as in TensorFlow's ExponentialMovingAverage.
    """

    @torch.no_grad()
    def update(means: Any, weights: Any, steps: Any) -> None:
        count = int(steps)
        torch._foreach_lerp_(means, weights, 1 - min(decay, (1 + count) / (10 + count)))

    return update
