"""An experiment bench for LeNet: docs/architecture.md has the map and the data flow.

From the bottom up; nothing imports from a line below its own.

errors     what a user can put right prints one line; how messages read
config     a composed config, checked, typed and explained
cli        what all commands share
datasets   images and labels
models     the nets, what they were compared with, and their losses
training   the loop, optimizers and schedules
tracking   the record in MLflow
reporting  terminal and figures
runs       one run, from its config to its record
sweeps     many runs, and what they show
inference  trained nets put to use
predict    what a trained net says of images
export     a trained net as a file for other programs
find_lr    the learning rates at which a recipe learns
describe   a net layer by layer, in numbers and as a picture
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`__version__`, read when it is needed: a registered model brings a copy of this package that is not installed."""
    if name == "__version__":
        from importlib.metadata import version

        return version("lenetexp")
    raise AttributeError(f"module 'lenetexp' has no attribute {name!r}")
