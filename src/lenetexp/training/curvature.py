"""The second derivative of the loss by each weight, for the diagonal Levenberg-Marquardt step.

LeCun et al. (1998), appendix C: it is backpropagated like the first derivative. Of the Hessian only the diagonal is
kept, layer by layer, and of each layer's only the squares of first derivatives (Gauss-Newton). The criterion's own
second derivative is exact, RBF units included; that of a custom loss may be negative, which counts as 0. A layer whose
units sum w·x gives its inputs h_x = Σ w² h_y and its weights h_w = Σ x² h_y, summed over the places that a shared
weight is used at: the layer's own backward pass, on squared weights and squared inputs. A function of single values
gives h_x = f'(x)² h_y.
"""

import copy
from collections import defaultdict
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from lenetexp.config.custom import explain_failure
from lenetexp.datasets.splits import Split
from lenetexp.errors import UserError, format_error
from lenetexp.models.boosted import Boosting
from lenetexp.models.layers import ACTIVATIONS, EuclideanRBF, Subsampling, TableConv2d
from lenetexp.training.batches import convert_to_floats, make_generator
from lenetexp.training.optimizers import DiagonalLevenbergMarquardt

# Layers that pass values on as they are, or choose among them: their own backward pass is right for squares, too.
UNCHANGED = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.MaxPool2d)
# Functions of single values.
POINTWISE = tuple(ACTIVATIONS.values())
# Linear in their weights and in their inputs.
WEIGHTED_SUMS = (nn.Linear, nn.Conv2d, TableConv2d, Subsampling)


def measure_curvature(
    model: nn.Module,
    loss: nn.Module,
    optimizer: Optimizer,
    split: Split,
    seed: int,
    epoch: int,
    most: int | None = None,
) -> None:
    """Give a Levenberg-Marquardt optimizer the curvature at the present weights. Do nothing for any other optimizer.

    Args:
        model: The net.
        loss: Its loss.
        optimizer: Its optimizer.
        split: The training images.
        seed: The run's seed, which with `epoch` selects the images.
        epoch: From 1; 0 before training.
        most: Number of images; None for the optimizer's own.

    Raises:
        UserError: The net has a layer without a rule.
    """
    if not isinstance(optimizer, DiagonalLevenbergMarquardt):
        return
    name = type(optimizer).__name__
    if isinstance(loss, Boosting):
        raise UserError(f"optimizer: {name} has no rule for a loss of several nets; must be another optimizer")
    count = min(most or optimizer.defaults["samples"], len(split))
    rows = torch.randperm(len(split), generator=make_generator("curvature", seed, epoch))[:count]
    some = split[rows.to(split.labels.device)]
    try:
        for parameter, values in compute_curvature(model, loss, convert_to_floats(some.images), some.labels).items():
            optimizer.set_curvature(parameter, values)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a custom net may do anything
        reason = explain_failure(error, "") or format_error(error)[:160]
        raise UserError(f"optimizer: {name} cannot work with this net ({reason})") from error


def compute_curvature(model: nn.Module, loss: nn.Module, images: Tensor, labels: Tensor) -> dict[nn.Parameter, Tensor]:
    """Compute every parameter's mean second derivative of the loss.

    Between its layers a net may only move, copy and add values. Whatever else it does must be a module.

    Args:
        model: The net.
        loss: Its loss.
        images: N×C×H×W floats.
        labels: N class numbers.

    Raises:
        UserError: The net has a layer without a rule.
    """
    inputs_of: dict[nn.Module, list[Tensor]] = defaultdict(list)
    curvatures: dict[nn.Parameter, Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        inputs_of[module].append(inputs[0])

    def backward(module: nn.Module, h_inputs: Any, h_outputs: Any) -> Any:
        h_input, h_weights = _propagate(plain[module], inputs_of[module].pop().detach(), h_inputs[0], h_outputs[0])
        for parameter, values in zip(module.parameters(), h_weights, strict=True):
            curvatures[parameter] = curvatures[parameter] + values if parameter in curvatures else values
        return (None if h_inputs[0] is None else h_input,)

    modes = model.training, loss.training
    model.eval()
    loss.eval()
    layers = [module for module in model.modules() if not [*module.children()] and module is not model]
    head = next((module for module in layers if isinstance(module, EuclideanRBF)), None)
    plain = {module: copy.deepcopy(module) for module in layers}  # without hooks
    hooks = [module.register_forward_hook(note) for module in layers]
    hooks += [module.register_full_backward_hook(backward) for module in layers if module is not head]
    try:
        with torch.enable_grad():
            outputs = model(images.clone().requires_grad_())  # else hooks of the first layer warn
            # The RBF units have no weights to learn: they are part of the loss.
            top = outputs if head is None else inputs_of[head][0]
            torch.autograd.backward(top, _compute_loss_curvature(loss, head, top.detach(), labels))
    finally:
        model.train(modes[0])
        loss.train(modes[1])
        model.zero_grad()
        for hook in hooks:
            hook.remove()
    for key, parameter in model.named_parameters():
        if parameter not in curvatures:
            raise UserError(f"optimizer: DiagonalLevenbergMarquardt finds no layer that {key} is a weight of")
    return curvatures


def _compute_loss_curvature(loss: nn.Module, head: nn.Module | None, top: Tensor, labels: Tensor) -> Tensor:
    """Return the diagonal of the mean loss's Hessian with respect to N×units values, at least 0."""
    with torch.enable_grad():
        top = top.requires_grad_()
        mean = loss(top if head is None else head(top), labels)
        (slopes,) = torch.autograd.grad(mean, top, create_graph=True)
        # No example's loss depends on another's values: a unit's column is found for all at once.
        columns = [
            torch.autograd.grad(slope.sum(), top, retain_graph=True)[0][:, i] for i, slope in enumerate(slopes.T)
        ]
    return torch.stack(columns, 1).clamp(min=0)


def _propagate(module: nn.Module, x: Tensor, as_gradient: Any, h: Tensor) -> tuple[Any, list[Tensor]]:
    """Propagate second derivatives from a layer's outputs to its inputs and parameters.

    Args:
        module: The layer.
        x: Its inputs.
        as_gradient: What a backward pass of `h` itself gives the inputs.
        h: The second derivatives with respect to the outputs.

    Returns:
        The second derivatives with respect to the inputs, and to each parameter.
    """
    if isinstance(module, UNCHANGED):
        return as_gradient, []
    if isinstance(module, nn.AvgPool2d):
        size = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
        return as_gradient / (module.divisor_override or prod(size)), []
    if isinstance(module, POINTWISE):
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(module(x.requires_grad_()).sum(), x)
        return slope.square() * h, []
    if not isinstance(module, WEIGHTED_SUMS):
        raise UserError(
            f"optimizer: DiagonalLevenbergMarquardt has no rule for a layer of {type(module).__name__}; it knows "
            "Linear, Conv2d, TableConv2d, Subsampling, average and max pooling, and the activations of model.activation"
        )
    with torch.enable_grad():
        squares = {key: weight.detach().square().requires_grad_() for key, weight in module.named_parameters()}
        x = x.square().requires_grad_()
        constants = {key: value.square() for key, value in module.named_buffers() if value.is_floating_point()}
        sums = functional_call(module, {**squares, **constants}, (x,))
        h_x, *h_weights = torch.autograd.grad(sums, [x, *squares.values()], h)
    return h_x, h_weights
