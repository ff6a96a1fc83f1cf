"""What happens inside the net, layer by layer: one forward and backward pass and one step on a few fixed images.

All of it is done on a copy, so that training is the same as without it, and depends on the state of the training alone,
so that a resumed run has the same record.
"""

import copy
import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from lenetexp.datasets.splits import Split
from lenetexp.errors import format_error
from lenetexp.training.batches import convert_to_floats
from lenetexp.training.optimizers import unwrap_step
from lenetexp.training.state import Training

IMAGES = 16  # spread evenly over the training set, which may be in the order of its classes
# An activation is flat where its slope is below this share of its steepest: for sigmoid beyond 0.013 and 0.987.
FLAT = 0.05
# An end that keeps a larger share of the slope, as that of leaky_relu, is not flat.
LEAKS = 1e-3
# What is measured of each layer; saturated or dead only of one that an activation follows.
MEASURES = (
    "activation_mean", "activation_deviation", "saturated", "dead", "gradient_norm", "weight_norm", "update_ratio"
)  # fmt: skip


@dataclass
class Call:
    """A call of a module: its name, its first input and its output."""

    name: str
    module: nn.Module
    input: Tensor
    returned: Tensor


def measure_diagnostics(training: Training, split: Split, clip_norm: float | None) -> dict[str, float]:
    """Measure what happens inside the net: see `_measure`.

    Returns {} and warns if a custom net or optimizer cannot be copied.
    """
    if not [*training.model.parameters()]:  # fitted at once: nothing steps
        return {}
    try:
        return _measure(training, split, clip_norm)
    except Exception as error:  # a custom class may raise anything
        name = type(training.model).__name__
        warnings.warn(f"diagnostics: cannot look inside {name} ({format_error(error)}); diagnostics=off", stacklevel=2)
        return {}


def _measure(training: Training, split: Split, clip_norm: float | None) -> dict[str, float]:
    """Compute `MEASURES` of every layer with weights, under "layer/measure".

    What is not finite or does not apply is left out. activation_mean is over all values of the layer's activation.
    activation_deviation is from image to image, the root mean square over all values. saturated is the share of values
    at which an activation with two flat ends is flat. dead, of one that is flat at its lower end only, is the share of
    units (neurons or maps) that are flat for every image. gradient_norm and weight_norm are Euclidean, over weight and
    bias. update_ratio is the norm of the change by the optimizer's next step on these images, over weight_norm.
    """
    model, optimizer, loss_function = copy.deepcopy((training.model, training.optimizer, training.loss))
    calls: list[Call] = []
    hooks = []
    for name, module in model.named_modules():
        if getattr(module, "inplace", False):  # it would overwrite what is looked at
            module.inplace = False
        if not [*module.children()]:
            # MLflow takes no empty part of a name, and few characters.
            label = re.sub(r"[^\w.\- ]", "_", name) or type(module).__name__
            hooks.append(module.register_forward_hook(_make_hook(label, calls)))
    rows = torch.linspace(0, len(split) - 1, min(IMAGES, len(split)), device=split.labels.device).long()
    devices = [split.labels.device] if split.labels.is_cuda else []
    with torch.random.fork_rng(devices=devices):  # a custom net may draw
        torch.manual_seed(0)
        loss = loss_function.train()(model.train()(convert_to_floats(split.images[rows])), split.labels[rows])
    for hook in hooks:
        hook.remove()
    optimizer.zero_grad()
    loss.backward()
    measures: dict[str, Tensor] = {}
    layers = {call.name: call.module for call in calls if any(p.dim() > 1 for p in call.module.parameters())}
    before = {name: _flatten(layer.parameters()) for name, layer in layers.items()}
    for call, next_call in zip(calls, [*calls[1:], None], strict=True):
        if call.name in layers:
            measures |= {f"{call.name}/{key}": value for key, value in _find_activation(call, next_call).items()}
    for name, layer in layers.items():
        measures[f"{name}/weight_norm"] = before[name].norm()
        if gradients := [p.grad for p in layer.parameters() if p.grad is not None]:  # it may be frozen
            measures[f"{name}/gradient_norm"] = _flatten(gradients).norm()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    for group in optimizer.param_groups:  # the scheduler has set the next rate, which is zero after the last step
        group["lr"] = group["lr"] or training.schedule.lr
    unwrap_step(optimizer)()
    for name, layer in layers.items():
        change = _flatten(layer.parameters()) - before[name]
        measures[f"{name}/update_ratio"] = change.norm() / before[name].norm()
    values = torch.stack([value.detach().float() for value in measures.values()]).tolist()  # one wait for the device
    return {key: value for key, value in zip(measures, values, strict=True) if isfinite(value)}


def _make_hook(name: str, calls: list[Call]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """Make a hook that appends every call of one module to `calls`."""

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            calls.append(Call(name, module, inputs[0].detach(), output.detach()))

    return note


def _flatten(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _find_activation(call: Call, next_call: Call | None) -> dict[str, Tensor]:
    """Return the measures of a layer's output, taken after its activation if the next module is one."""
    output, flat = call.returned, dict[str, Tensor]()
    if next_call is not None and next_call.input.shape == output.shape:
        output = next_call.input  # a function may have been in between
        if _is_activation(next_call):
            output = next_call.returned
            with suppress(Exception):  # it may want more than a row of numbers, as PReLU does
                flat = _measure_flat_share(next_call)
    means = output.mean(0)
    deviation = (output - means).square().mean().sqrt()  # `std` takes five times longer
    return {"activation_mean": means.mean(), "activation_deviation": deviation, **flat}


def _is_activation(call: Call) -> bool:
    """Return whether a module works value by value and is no mere copy, normalization or dropout."""
    is_torchs = type(call.module).__module__ == "torch.nn.modules.activation"
    is_custom = not type(call.module).__module__.startswith("torch.") and not [*call.module.parameters()]
    return (is_torchs or is_custom) and call.returned.shape == call.input.shape


def _measure_flat_share(call: Call) -> dict[str, Tensor]:
    """Return the share of values beyond an activation's flat ends; of units if only its lower end is flat."""
    grid = torch.linspace(-20, 20, 2001, device=call.input.device)
    slopes = call.module(grid).diff().abs()
    steepest = slopes.max()
    steep = torch.nonzero(slopes > FLAT * steepest).flatten()
    low, high = grid[steep[0]], grid[steep[-1] + 1]
    low_end, high_end = (end <= LEAKS * steepest for end in (slopes[0], slopes[-1]))
    if low_end and high_end:
        return {"saturated": ((call.input < low) | (call.input > high)).float().mean()}
    if low_end:
        return {"dead": (call.input.transpose(0, 1).flatten(1).amax(1) <= low).float().mean()}
    return {}
