"""A training that goes on from a checkpoint ends as one that never stopped, whatever it is made of."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from helpers import OPTIONS, assert_same_weights, composed, make_data
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.training.loop import Recipe, fit
from lenetexp.training.setup import set_up
from lenetexp.training.state import Training, load_checkpoint, save_checkpoint

CHOICES = [option for option in OPTIONS if option.startswith(("optimizer=", "scheduler="))]


def trained(words: list[str], stop_after: int, before: Path | None = None) -> Training:
    """A training on easy images up to an epoch, from the start or from a checkpoint."""
    settings = check_config(RunConfig, composed("epochs=5", *words, "model.activation=tanh"))
    images = make_data(70)
    training = set_up(settings, images, torch.device("cpu"))
    if before is not None:
        training.load_state_dict(load_checkpoint(before))
    recipe = Recipe(5, 16, 3, settings.dataset.augment, settings.clip_norm, settings.patience)
    for _ in islice(fit(training, images, recipe), stop_after - training.epochs_done):
        pass
    return training


@pytest.mark.parametrize(
    "words",
    [
        *([choice] for choice in CHOICES),
        ["optimizer=adamw", "scheduler=onecycle", "dataset.augment={shift:2,rotate:10,scale:0.1}"],
        ["optimizer=sgd", "device.precision=bf16", "clip_norm=0.5"],
        ["optimizer=rmsprop", "scheduler=plateau", "patience=1"],
        ["ema=0.9", "loss.label_smoothing=0.1", "dataset.augment={shear:10,elastic:8}"],
        ["model=lenet_5", "optimizer=levenberg_marquardt", "optimizer.samples=20", "scheduler=piecewise"],
    ],
    ids=" ".join,
)
def test_a_checkpoint_holds_all_that_decides_the_rest(words: list[str], tmp_path: Path) -> None:
    whole, half = trained(words, 5), trained(words, 2)
    save_checkpoint(tmp_path / "last.pt", half.state_dict())
    resumed = trained(words, 5, before=tmp_path / "last.pt")
    histories = [[{**vars(r), "images_per_second": 0} for r in each.history] for each in (resumed, whole)]
    assert histories[0] == histories[1]
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())
    assert_same_weights(resumed.best_weights or {}, whole.best_weights or {})
    assert str(resumed.optimizer.state_dict()) == str(whole.optimizer.state_dict())
