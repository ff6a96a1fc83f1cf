"""What happens while a net learns. Knows nothing of Hydra and MLflow.

loop         the training loop, on one screen
setup        what a command trains with: device, net, optimizer, schedule
optimizers   optimizers as a config names them, and what torch lacks of them
schedules    learning-rate schedules, and when they are stepped
state        all that changes in training: recorded epoch by epoch, saved atomically, read back as weights only
batches      the batches of any epoch, as a function of (seed, epoch)
curvature    second derivatives of the loss, for the diagonal Levenberg-Marquardt step
diagnostics  what happens inside the net, layer by layer
frames       the first convolution after each epoch, for the animation of a run
evaluate     a net and a split to logits, loss and accuracy
verdict      whether the net learned, and why not
lr_range     training at a rising learning rate
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenetexp.training.optimizers import DiagonalLevenbergMarquardt as DiagonalLevenbergMarquardt
    from lenetexp.training.schedules import piecewise as piecewise
    from lenetexp.training.schedules import warmup_cosine as warmup_cosine

MODULES = {"DiagonalLevenbergMarquardt": "optimizers", "piecewise": "schedules", "warmup_cosine": "schedules"}


# Imported only when asked for: torch takes seconds.
def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
