"""The nets.

lenet  LeNet, layer by layer, and its activations
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.models.lenet import LeNet as LeNet


# Imported only when asked for: torch takes seconds.
def __getattr__(name: str) -> Any:
    if name != "LeNet":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.lenet").LeNet
