"""Optimizers and schedulers.

build      torch's own objects, as a config names them; when a scheduler is stepped
schedules  schedules that torch does not have
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.optim.schedules import warmup_cosine as warmup_cosine

# Public names that configs use. They are imported only when asked for: torch takes seconds.
_MODULES = {"warmup_cosine": "schedules"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
