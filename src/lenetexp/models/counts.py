"""Units, parameters and connections of a net, layer by layer, counted as LeCun's papers do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from lenetexp.models.layers import EuclideanRBF, Subsampling, TableConv2d


@dataclass(frozen=True)
class Layer:
    """A layer of a net."""

    name: str
    kind: str
    shape: tuple[int, ...]  # of its output for one image: maps, height, width; or units
    parameters: int  # trained ones
    connections: int  # to all its units; one to a bias is one, those that share a weight count each
    window: int = 0  # side of the square that a unit sees of each of its input maps; 0 for all that there is
    table: tuple[tuple[int, ...], ...] = ()  # the input maps that each of its maps sees, if not all
    sees_image: bool = False

    @property
    def units(self) -> int:
        return prod(self.shape)


KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    TableConv2d: "convolution",
    Subsampling: "subsampling",
    nn.AvgPool2d: "average pooling",
    nn.MaxPool2d: "max pooling",
    nn.Linear: "full connection",
    EuclideanRBF: "RBF",
}


def list_layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """List the image as the first layer sees it, then every layer of a kind in `KINDS`, in the order of computation.

    Leaves the model in evaluation mode.
    """
    layers: list[Layer] = []
    images: list[Tensor] = []
    named_layers = [(name, module) for name, module in model.named_modules() if _name_kind(module)]
    hooks = [module.register_forward_hook(_make_counter(name, layers, images)) for name, module in named_layers]
    try:
        with torch.no_grad():
            # No two values are alike, so that the image is known again where it is seen.
            model.eval()(torch.linspace(0, 1, prod(image_shape)).view(1, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def _name_kind(module: nn.Module) -> str:
    """Return the kind of a layer; "" for a module that is none, such as an activation."""
    return next((kind for layer_type, kind in KINDS.items() if isinstance(module, layer_type)), "")


def find_copies(layers: Sequence[Layer]) -> tuple[list[Layer], int]:
    """Find equal nets side by side, each of which sees the image.

    Returns:
        The image and the layers of one of the nets, without the net's place in their names, and the number of nets.
        Without copies, all layers and 1.
    """
    image, *others = layers
    starts = [i for i, layer in enumerate(others) if layer.sees_image]
    nets = [others[start:end] for start, end in pairwise([*starts, len(others)])]
    bare = [[replace(layer, name=layer.name.rpartition(".")[2]) for layer in net] for net in nets]
    if len(nets) > 1 and all(net == bare[0] for net in bare):
        return [image, *bare[0]], len(nets)
    return [*layers], 1


def _make_counter(
    name: str, layers: list[Layer], images: list[Tensor]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Append the layer `module` to `layers`, after the image if it is the first. A forward hook."""
        if not layers:
            layers.append(Layer("input", "image", tuple(inputs[0].shape[1:]), 0, 0))
            images.append(inputs[0])
        shape = tuple(output.shape[1:])
        if shape[1:] == (1, 1):  # maps of one unit each
            shape = shape[:1]
        parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        connections = _count_connections(module, shape)
        sees_image = torch.equal(inputs[0], images[0])
        window, table = _get_window(module), _get_table(module)
        layers.append(Layer(name, _name_kind(module), shape, parameters, connections, window, table, sees_image))

    return count


def _count_connections(module: nn.Module, shape: tuple[int, ...]) -> int:
    units = prod(shape)
    if isinstance(module, Subsampling):
        return units * (4 + 1)
    if isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
        size = module.kernel_size
        return units * (size**2 if isinstance(size, int) else prod(size))
    assert isinstance(module.weight, Tensor)
    biased = getattr(module, "bias", None) is not None
    return prod(shape[1:]) * module.weight.numel() + units * biased


def _get_window(module: nn.Module) -> int:
    if isinstance(module, Subsampling):
        return 2
    if isinstance(module, TableConv2d):
        return module.weight.shape[-1]
    size = getattr(module, "kernel_size", 0)
    return size if isinstance(size, int) else int(size[0])


def _get_table(module: nn.Module) -> tuple[tuple[int, ...], ...]:
    if isinstance(module, TableConv2d) and any(len(inputs) < module.inputs for inputs in module.table):
        return tuple(map(tuple, module.table))
    return ()
