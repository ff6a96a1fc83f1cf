"""The nets, and the classifiers that they were compared with.

layers      what several nets share: activations, first weights, layers that torch lacks
bitmaps     the digits that LeNet-5's output compares with
lenet       LeNet as tutorials have it, layer by layer
lenet_1989  the first convolutional net for digits
lenet_1998  LeNet-1, LeNet-4 and LeNet-5 as in the papers
boosted     three LeNet-4 of which each learns what the ones before it get wrong
mlp         fully connected nets
deslant     images sheared upright
classical   what is fitted at once: linear classifiers, nearest neighbours, the quadratic one
neighbours  nearest neighbours
svm         support vector machines, fitted at once, too
losses      what training minimises
counts      units, parameters and connections, layer by layer, as the papers count them
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.models.boosted import BoostedLeNet4 as BoostedLeNet4
    from lenetexp.models.classical import LinearClassifier as LinearClassifier
    from lenetexp.models.classical import PairwiseLinear as PairwiseLinear
    from lenetexp.models.classical import QuadraticClassifier as QuadraticClassifier
    from lenetexp.models.lenet import LeNet as LeNet
    from lenetexp.models.lenet_1989 import LeNet1989 as LeNet1989
    from lenetexp.models.lenet_1998 import LeNet1 as LeNet1
    from lenetexp.models.lenet_1998 import LeNet4 as LeNet4
    from lenetexp.models.lenet_1998 import LeNet5 as LeNet5
    from lenetexp.models.losses import CrossEntropy as CrossEntropy
    from lenetexp.models.losses import MaximumAPosteriori as MaximumAPosteriori
    from lenetexp.models.losses import SquaredError as SquaredError
    from lenetexp.models.mlp import MLP as MLP
    from lenetexp.models.neighbours import NearestNeighbours as NearestNeighbours
    from lenetexp.models.svm import PolynomialSVM as PolynomialSVM

MODULES = {
    "LeNet": "lenet",
    "LeNet1989": "lenet_1989",
    **dict.fromkeys(("LeNet1", "LeNet4", "LeNet5"), "lenet_1998"),
    "BoostedLeNet4": "boosted",
    "MLP": "mlp",
    **dict.fromkeys(("LinearClassifier", "PairwiseLinear", "QuadraticClassifier"), "classical"),
    "NearestNeighbours": "neighbours",
    "PolynomialSVM": "svm",
    **dict.fromkeys(("CrossEntropy", "MaximumAPosteriori", "SquaredError"), "losses"),
}


# Imported only when asked for: torch takes seconds.
def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
