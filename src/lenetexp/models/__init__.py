"""The nets.

lenet      LeNet, layer by layer, and its activations
mlp        fully connected nets
deslant    images sheared upright
classical  what is fitted at once: linear classifiers, nearest neighbours, the quadratic one
svm        support vector machines, fitted at once, too
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.models.classical import LinearClassifier as LinearClassifier
    from lenetexp.models.classical import NearestNeighbours as NearestNeighbours
    from lenetexp.models.classical import PairwiseLinear as PairwiseLinear
    from lenetexp.models.classical import QuadraticClassifier as QuadraticClassifier
    from lenetexp.models.lenet import LeNet as LeNet
    from lenetexp.models.mlp import MLP as MLP
    from lenetexp.models.svm import PolynomialSVM as PolynomialSVM

MODULES = {
    "LeNet": "lenet",
    "MLP": "mlp",
    "LinearClassifier": "classical",
    "PairwiseLinear": "classical",
    "QuadraticClassifier": "classical",
    "NearestNeighbours": "classical",
    "PolynomialSVM": "svm",
}


# Imported only when asked for: torch takes seconds.
def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
