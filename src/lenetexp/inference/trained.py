"""A trained net, rebuilt from its run's record, and pictures in the form that it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import nn

from lenetexp.config.schema import check_config
from lenetexp.config.targets import Dataset, Settings, Target
from lenetexp.datasets.mnist_form import Invert, MnistSteps, compute_mnist_steps
from lenetexp.datasets.pictures import Picture, convert_for_folder_dataset, read_image
from lenetexp.datasets.splits import Data
from lenetexp.datasets.splits import load_data as load_images
from lenetexp.errors import UserError, format_error
from lenetexp.runs.provenance import find_root
from lenetexp.runs.trust import read_config, require_trusted
from lenetexp.tracking.names import BEST_ACCURACY, File
from lenetexp.tracking.query import RecordedRun
from lenetexp.training.setup import build_net
from lenetexp.training.state import load_checkpoint

NEEDED = (File.CONFIG, File.DATASET, File.BEST)  # of a run's record


class _Config(Settings):
    """The part of a stored config that is needed."""

    model_config = ConfigDict(extra="ignore")

    model: Target
    dataset: Dataset


class Facts(Settings):
    """The part of a stored dataset.json that is needed."""

    model_config = ConfigDict(extra="ignore", strict=False, coerce_numbers_to_str=True)

    name: str | None = None
    root: str | None = None  # absolute, where the config's may be relative to another folder
    root_from_run: str | None = None  # from the run's folder
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    like_mnist: bool = False
    digest: str | None = None


@dataclass(frozen=True)
class TrainedNet:
    """A net with its best weights, and what its run recorded about it and its images."""

    model: nn.Module
    config: _Config
    facts: Facts

    def describe(self, run: RecordedRun) -> str:
        """Describe the net of `run` in a few words: "LeNet on digits, validation accuracy 97.20%"."""
        accuracy = run.metrics.get(BEST_ACCURACY)
        result = run.status.lower() if accuracy is None else f"validation accuracy {accuracy:.2%}"
        return f"{self.config.model.name} on {self.facts.name}, {result}"

    def locate_own_dataset(self, root: str | None) -> Dataset:
        """Return the run's own dataset, in `root` if that is given, else where the run read it."""
        root = root or self.facts.root
        return self.config.dataset.model_copy(update={"root": root} if root else {})

    def load_own_images(self, root: str | None, device: torch.device) -> Data:
        """Load the images of the run's own dataset, from `root` if that is given, else from where the run read them."""
        return load_images(self.locate_own_dataset(root), device)

    def prepare(self, picture: Picture, invert: Invert = "auto") -> NDArray[np.uint8]:
        """Bring a picture of any size into the form of the net's images, C×H×W.

        Raises:
            UserError: The picture cannot be read, or shows no sign.
        """
        if self.facts.like_mnist:
            return self.compute_mnist_steps(picture, invert).centred[None]
        image = convert_for_folder_dataset(picture, self.facts.image_shape)
        return 255 - image if invert is True else image

    def compute_mnist_steps(self, picture: Picture, invert: Invert = "auto") -> MnistSteps:
        """Compute the steps of a picture into the form of a net for digits or letters.

        Raises:
            UserError: The picture cannot be read, or shows no sign.
        """
        return compute_mnist_steps(np.array(read_image(picture, "L")), invert, str(picture))


def load_net(stored: RecordedRun, trust: Sequence[str] = ()) -> TrainedNet:
    """Rebuild a run's net.

    Raises:
        UserError: Its record is damaged, or names what is not trusted.
    """
    with TemporaryDirectory(prefix="lenetexp-") as folder:
        net = rebuild_net(stored.download(Path(folder), *NEEDED), f"run={stored.run_id}", trust)
    root = find_root(net.facts.root, net.facts.root_from_run, stored.folder_to_read)
    return replace(net, facts=net.facts.model_copy(update={"root": root}))


def rebuild_net(files: Sequence[Path], whose: str, trust: Sequence[str] = ()) -> TrainedNet:
    """Rebuild the net that some files describe.

    Args:
        files: The files `NEEDED`, in that order.
        whose: The run or model, for messages.
        trust: Modules that the user trusts.

    Raises:
        UserError: A file is damaged, or names what is not trusted.
    """
    config_file, facts_file, weights_file = files
    try:
        config = check_config(_Config, read_config(config_file.read_text(), whose))
        facts = Facts.model_validate_json(facts_file.read_bytes())
    except ValueError as error:
        raise UserError(f"{whose}: its record is damaged ({format_error(error)[:120]})") from None
    require_trusted(config.model.build_call(), "model", trust)
    require_trusted(config.dataset.build_call(), "dataset", trust)
    model = build_net(config.model, len(facts.classes), facts.image_shape)
    weights = load_checkpoint(weights_file)
    try:
        model.load_state_dict(weights)
        with torch.no_grad():  # the sizes of a classifier that is fitted at once are those of its weights
            model.eval()(torch.zeros(1, *facts.image_shape))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{whose}: its weights do not fit its net ({format_error(error)[:160]})") from None
    return TrainedNet(model, config, facts)
