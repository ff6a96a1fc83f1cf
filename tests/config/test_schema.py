"""A composed config is checked: what is right becomes typed settings, a mistake is one sentence."""

import re
from typing import get_args

import pytest

from helpers import composed
from lenetexp.config import fields
from lenetexp.config.commands import PredictConfig
from lenetexp.config.schema import RunConfig, check
from lenetexp.errors import UserError
from lenetexp.models.lenet import ACTIVATIONS


def checked(*overrides: str) -> RunConfig:
    return check(RunConfig, composed(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer.lr=true", "optimizer.lr=true: must be a number above 0"),
        ("optimizer.lr=inf", "optimizer.lr=inf: must be a number above 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a number above 0"),
        ("optimizer=adam optimizer.betas=[0.9,1]", "optimizer.betas.1=1: must be a number from 0 to below 1"),
        ("optimizer=adam optimizer.betas=[0.9]", "optimizer.betas=[0.9]: must have 2 items"),
        ("optimizer=adam optimizer.betas=[0.9,0.99,0.999]", "optimizer.betas=[0.9, 0.99, 0.999]: must have 2 items"),
        ("scheduler.warmup=500", "scheduler.warmup=500: must be a number from 0 to below 1"),
        ("dataset=image_folder dataset.root=a dataset.channels=4", "dataset.channels=4: must be 1 or 3"),
        ("scheduler=multistep scheduler.milestones=[0]", "scheduler.milestones.0=0: must be a whole number"),
        ("scheduler.interval=step", "scheduler.interval=step: must be epoch or batch"),
        ("scheduler.steps_per_epoch=x", "scheduler.steps_per_epoch=x: must be a whole number, 1 or more, or auto"),
        ("scheduler.steps_per_epoch=0", "scheduler.steps_per_epoch=0: must be a whole number, 1 or more, or auto"),
        ("model.head_activation=1", "model.head_activation=1: must be true or false"),
        ("dataset.augment={shift:2,turn:3}", "dataset.augment.turn=3: there is no such setting"),
        ("dataset.augment={rotate:400}", "dataset.augment.rotate=400: must be a number of degrees from 0 to 180"),
        ("dataset.validation=tst", "dataset.validation=tst: must be a share of the training images"),
        ("device.name=cudda", "device.name=cudda: must be auto, cpu, cuda or mps; did you mean cuda?"),
        ("device.threads=0", "device.threads=0: must be a whole number, 1 or more"),
        ("seed=-1", "seed=-1: must be a whole number from 0"),
        ("epochs=1.5", "epochs=1.5: must be a whole number, 1 or more"),
        ("~optimizer", "optimizer: is missing from the config"),
    ],
)
def test_a_mistake_is_named_by_key_value_and_what_is_allowed(overrides: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        checked(*overrides.split())


def test_pictures_are_a_path_or_a_list_of_paths() -> None:
    for given, expected in (("a.png", ["a.png"]), ("[a.png,b]", ["a.png", "b"]), ("null", None)):
        settings = check(PredictConfig, composed(f"images={given}", "run=best", name="predict"))
        assert (settings.run, settings.count, settings.images) == ("best", 10, expected)
    with pytest.raises(UserError, match=r"^images=\[\]: must be a file, a folder, a glob, or a list of those"):
        check(PredictConfig, composed("images=[]", name="predict"))


def test_the_config_allows_every_activation_and_no_other() -> None:
    assert set(ACTIVATIONS) == set(get_args(fields.Activation))


def test_a_custom_class_gets_its_own_arguments() -> None:
    settings = checked("+optimizer.dampening=0.5", "model._target_=mine.Net", "+model.n=3")
    assert settings.optimizer.call()["dampening"] == 0.5
    assert settings.model.call()["n"] == 3


def test_a_custom_class_may_use_the_names_of_known_arguments_for_other_things() -> None:
    settings = checked(
        *("optimizer._target_=mine.Three", "+optimizer.betas=[0.9,0.99,0.999]", "optimizer.momentum=2"),
        *("scheduler._target_=mine.Warm", "scheduler.warmup=500"),
        *("dataset._target_=mine.satellite", "+dataset.channels=4", "+dataset.test=tiles"),
    )
    assert settings.optimizer.call()["betas"] == [0.9, 0.99, 0.999]
    assert settings.optimizer.call()["momentum"] == 2
    assert settings.scheduler.call()["warmup"] == 500
    assert settings.dataset.call() == {"_target_": "mine.satellite", "channels": 4, "test": "tiles"}


@pytest.mark.parametrize("setting", ["optimizer.lr=-1", "scheduler.interval=step", "dataset.validation=2"])
def test_what_every_class_has_is_checked_in_a_custom_one_too(setting: str) -> None:
    with pytest.raises(UserError, match=f"^{setting}: must be"):
        checked(f"{setting.partition('.')[0]}._target_=mine.Own", setting)


def test_a_classifier_that_is_fitted_at_once_takes_the_epochs_of_the_nets_beside_it() -> None:
    settings = checked("model=knn", "epochs=2")
    settings.require_effect(["model=knn", "epochs=2"])
    with pytest.raises(UserError, match=r"^optimizer\.lr=0\.1: has no effect on NearestNeighbours"):
        settings.require_effect(["epochs=2", "optimizer.lr=0.1"])
