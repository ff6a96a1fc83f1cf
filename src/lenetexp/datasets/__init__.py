"""Where images come from: the functions that conf/dataset/ names, and the types of a custom dataset.

splits       `Source`, what every dataset function returns; a config's dataset checked, split, on the device
pictures     picture files found, decoded, scaled and compared
mnist_form   a picture of one sign as MNIST would have it
local        scikit-learn's digits; the user's own pictures, one folder a class
downloads    torchvision's datasets: downloaded, checked, brought to one form
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.datasets.downloads import torchvision_dataset
    from lenetexp.datasets.local import digits, image_folder
    from lenetexp.datasets.splits import Source, Split

__all__ = ["Source", "Split", "digits", "image_folder", "torchvision_dataset"]
# Imported only when asked for: torch takes seconds.
_MODULES = dict(zip(__all__, ("splits", "splits", "local", "local", "downloads"), strict=True))


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
