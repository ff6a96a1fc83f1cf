"""The nets.

lenet  LeNet, layer by layer, and its activations
build  any net that a config names, checked against the images
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.models.lenet import LeNet as LeNet


def __getattr__(name: str) -> Any:
    """The nets that configs name are imported only when asked for: torch takes seconds."""
    if name != "LeNet":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.lenet").LeNet
