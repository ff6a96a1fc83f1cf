"""The nets.

lenet  LeNet, layer by layer, and its activations
build  any net that a config names, checked against the images
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.models.lenet import LeNet as LeNet

# Public names that configs use. They are imported only when asked for: torch takes seconds.
_MODULES = {"LeNet": "lenet"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
