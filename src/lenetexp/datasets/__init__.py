"""Where images come from: the functions that conf/dataset/ names, and the types of a custom dataset.

source       `Split` and `Source`, what every dataset function returns; `hold_out`
images       pictures found, decoded and scaled; MNIST's form
uci_digits   the digits that come with scikit-learn
torchvision  torchvision's datasets: downloaded, checked, brought to one form
folder       the user's own pictures, one folder a class
load         the dataset that a config names: checked, split, on the device
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.datasets.folder import image_folder
    from lenetexp.datasets.source import Source, Split
    from lenetexp.datasets.torchvision import torchvision_dataset
    from lenetexp.datasets.uci_digits import digits

__all__ = ["Source", "Split", "digits", "image_folder", "torchvision_dataset"]
# Imported only when asked for: torch takes seconds.
_MODULES = dict(zip(__all__, ("source", "source", "uci_digits", "folder", "torchvision"), strict=True))


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
