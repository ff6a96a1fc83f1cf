"""The menu and its check: every option composes, every setting is explained, mistakes are told."""

import inspect
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_method
from omegaconf import OmegaConf

import lenetexp.cli  # noqa: F401  (its resolver is part of the config)
from conftest import PROJECT, Command
from lenetexp import config, provenance
from lenetexp.config import (
    PredictConfig,
    RunConfig,
    UserError,
    check,
    config_hash,
    leaves,
    without_password,
)
from lenetexp.models import ACTIVATIONS

CONF = PROJECT / "conf"
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "local")
)
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent.name not in ("help", "local"))
RECIPES = [path for path in FILES if path.parent.name == "experiment"]
SWEEPS = [path for path in FILES if path.parent.name == "sweep"]
EXPLAINED = [path for path in FILES if path not in RECIPES + SWEEPS]


def composed(*overrides: str, name: str = "config", conf: Path = CONF) -> dict[str, Any]:
    """What a command line composes to, as plain dicts and lists; without this machine's own settings."""
    local = ["~local"] if conf == CONF else []
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        values = compose(name, overrides=[*local, *overrides])
    return OmegaConf.to_container(values, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def with_root(option: str) -> list[str]:
    """The one option that cannot do without a folder is given one."""
    return [option, "dataset.root=pictures"] if option == "dataset=image_folder" else [option]


def test_the_menu_is_what_the_readme_and_the_spec_name() -> None:
    groups = {option.partition("=")[0] for option in OPTIONS}
    assert {"model", "optimizer", "scheduler", "dataset", "device", "tracking", "experiment"} <= groups
    datasets = "digits mnist fashion_mnist kmnist qmnist emnist usps cifar10 image_folder"
    expected = [f"dataset={name}" for name in datasets.split()]
    expected += [f"device={name}" for name in ("auto", "cpu", "cuda", "mps")]
    assert set(expected) <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_to_a_config_that_is_right(option: str) -> None:
    """And what it names is there and takes the arguments that the file gives."""
    settings = check(RunConfig, composed(*with_root(option)))
    group = option.partition("=")[0]
    given = {
        "model": {"classes": 10, "channels": 1},
        "optimizer": {"params": []},
        "scheduler": {"optimizer": None},
        "dataset": {},
    }
    if group in given:
        call = {**getattr(settings, group).call(), **given[group]}
        inspect.signature(get_method(call.pop("_target_"))).bind(**call)


@pytest.mark.parametrize("option", ["device=cpu", "device=cuda", "device=mps", "device=auto"])
def test_a_device_is_what_it_is_called(option: str) -> None:
    assert check(RunConfig, composed(option)).device.name == option.partition("=")[2]


def test_prediction_has_a_config_of_its_own() -> None:
    settings = check(PredictConfig, composed("run=best", "images=photo.png", name="predict"))
    assert (settings.run, settings.count, settings.images) == ("best", 10, ("photo.png",))


def leaf_nodes(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode):
            yield from leaf_nodes(value)
        else:
            yield key.value, value


@pytest.mark.parametrize("path", EXPLAINED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_setting_is_explained_on_its_line(path: Path) -> None:
    """A file's first line says what it is, and so what its `_target_` is."""
    text = path.read_text()
    lines = text.splitlines()
    assert re.match(r"# \w", lines[0])
    root = yaml.compose(text)
    own = [(key, value) for key, value in root.value if key.value not in ("defaults", "hydra", "_target_")]
    for key, value in leaf_nodes(yaml.MappingNode(root.tag, own)):
        rest_of_line = lines[value.end_mark.line][value.end_mark.column :]
        assert re.match(r" # \w", rest_of_line), f"{path}: {key} is not explained"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_what_it_gives_and_what_it_costs(path: Path) -> None:
    head = path.read_text().partition("defaults:")[0]
    for heading in ("What it is:", "What it gives:", "What it costs:"):
        assert re.search(rf"^# {heading} +\S.*\S$", head, re.MULTILINE)


def test_the_tutorials_recipe_to_the_letter() -> None:
    """docs: MNIST in [0, 1], batch 16, SGD 1e-3 with momentum 0.9, ×0.1 every 10 epochs, 10 epochs."""
    values = composed("experiment=tutorial")
    check(RunConfig, values)
    del values["optimizer"]["fused"]  # the same sums
    assert (values["epochs"], values["batch_size"]) == (10, 16)
    assert (values["clip_norm"], values["patience"]) == (None, None)
    assert values["model"] == {
        "_target_": "lenetexp.models.LeNet",
        "activation": "sigmoid",
        "pooling": "avg",
        "head_activation": False,
    }
    assert values["optimizer"] == {
        "_target_": "torch.optim.SGD",
        "lr": 1e-3,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "nesterov": False,
    }
    assert values["scheduler"] == {
        "_target_": "torch.optim.lr_scheduler.StepLR",
        "interval": "epoch",
        "step_size": 10,
        "gamma": 0.1,
    }
    dataset = values["dataset"]
    assert (dataset["name"], dataset["validation"], dataset["augment"]) == ("MNIST", "test", None)
    assert values["device"]["precision"] == "fp32"


def test_a_recipe_can_be_changed_on_the_command_line() -> None:
    values = composed("experiment=tutorial", "optimizer.lr=0.5", "dataset=digits", "scheduler=constant")
    assert values["optimizer"]["lr"] == 0.5
    assert values["dataset"]["_target_"] == "lenetexp.datasets.digits"
    assert values["scheduler"]["_target_"].endswith("ConstantLR")


def test_the_length_of_a_schedule_follows_the_run() -> None:
    for scheduler, key in (("warmup_cosine", "epochs"), ("onecycle", "epochs"), ("cosine", "T_max")):
        assert composed(f"scheduler={scheduler}", "epochs=7")["scheduler"][key] == 7
    assert composed("scheduler=onecycle", "optimizer.lr=0.25")["scheduler"]["max_lr"] == 0.25


def test_a_machines_own_settings_count_and_the_command_line_wins_over_them(tmp_path: Path) -> None:
    """conf/local/machine.yaml, in a copy of conf/."""
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    machine = (
        "# @package _global_\nepochs: 7\ndata_dir: /big/disk\ntracking:\n  uri: http://10.0.0.1:5000\n"
    )
    (conf / "local/machine.yaml").write_text(machine)
    values = composed("dataset=mnist", conf=conf)
    assert (values["epochs"], values["scheduler"]["epochs"]) == (7, 7)
    assert values["dataset"]["root"] == "/big/disk"
    assert values["tracking"]["uri"] == "http://10.0.0.1:5000"
    assert composed("epochs=3", conf=conf)["epochs"] == 3


@pytest.mark.parametrize(
    "script",
    [
        "run",
        "predict",
    ],
)
def test_both_commands_take_the_machine_file_that_its_readme_shows(
    command: Command, tmp_path: Path, script: str
) -> None:
    """It comes as far as asking for the store, and the command line has said where that is."""
    example = re.search(r"```yaml\n(.+?)```", (CONF / "local/README.md").read_text(), re.DOTALL)
    assert example
    (tmp_path / "mine/local").mkdir(parents=True)
    (tmp_path / "mine/local/machine.yaml").write_text(example[1])
    done = command(script, "--config-dir", "mine", "tracking.uri=nowhere")
    assert done.stderr.startswith("error: tracking.uri=nowhere: ")


def test_the_hash_tells_trainings_apart_and_not_the_places_they_are_filed_in() -> None:
    same = config_hash(composed("dataset=mnist"))
    assert re.fullmatch("[0-9a-f]{12}", same)
    for elsewhere in (
        "tracking.uri=http://host:5000",
        "dataset.root=/big/disk",
        "tracking.experiment=other",
    ):
        assert config_hash(composed("dataset=mnist", elsewhere)) == same, elsewhere
    for another in (
        "optimizer.lr=0.123",
        "seed=12",
        "epochs=123",
        "model.activation=relu",
        "dataset=kmnist",
    ):
        assert config_hash(composed("dataset=mnist", another)) != same, another


def test_the_hash_tells_seeds_apart_that_a_float_cannot_hold() -> None:
    assert config_hash({"seed": 2**53}) != config_hash({"seed": 2**53 + 1})


@pytest.mark.parametrize(
    ("whole", "decimal"),
    [
        ("optimizer.lr=1", "optimizer.lr=1.0"),
        ("dataset.augment={shift:2}", "dataset.augment={shift:2.0}"),
        pytest.param(
            "optimizer=adam optimizer.betas=[0,0.9]",
            "optimizer=adam optimizer.betas=[0.0,0.9]",
        ),
    ],
)
def test_the_hash_takes_a_whole_number_and_its_decimal_as_the_same(whole: str, decimal: str) -> None:
    assert config_hash(composed(*whole.split())) == config_hash(composed(*decimal.split()))


def test_leaves_have_dotted_names() -> None:
    nested = {"a": {"b": {"c": 1}, "list": [1, {"d": 2}]}, "empty": {}, "e": None}
    assert dict(leaves(nested)) == {"a.b.c": 1, "a.list": [1, {"d": 2}], "empty": {}, "e": None}


def test_every_activation_of_the_menu_is_there_and_no_other() -> None:
    assert set(ACTIVATIONS) == set(get_args(config.Activation))
    for name in ACTIVATIONS:
        settings = check(RunConfig, composed(f"model.activation={name}"))
        assert settings.model.call()["activation"] == name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer.lr=true", "optimizer.lr=true: must be a number above 0"),
        ("optimizer.lr=inf", "optimizer.lr=inf: must be a number above 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a number above 0"),
        (
            "optimizer=adam optimizer.betas=[0.9,1]",
            "optimizer.betas.1=1: must be a number from 0 to below 1",
        ),
        (
            "optimizer=adam optimizer.betas=[0.9,0.99,0.999]",
            "optimizer.betas=[0.9, 0.99, 0.999]: must have 2",
        ),
        ("scheduler.warmup=500", "scheduler.warmup=500: must be a number from 0 to below 1"),
        ("dataset=image_folder dataset.root=a dataset.channels=4", "dataset.channels=4: must be 1 or 3"),
        (
            "scheduler=multistep scheduler.milestones=[0]",
            "scheduler.milestones.0=0: must be a whole number",
        ),
        ("scheduler.interval=step", "scheduler.interval=step: must be epoch or batch"),
        (
            "scheduler.steps_per_epoch=0",
            "scheduler.steps_per_epoch=0: must be a whole number, 1 or more, or",
        ),
        ("model.head_activation=1", "model.head_activation=1: must be true or false"),
        ("dataset.augment={shift:2,turn:3}", "dataset.augment.turn=3: there is no such setting"),
        ("dataset.augment={rotate:400}", "dataset.augment.rotate=400: must be a number of degrees"),
        ("dataset.validation=tst", "dataset.validation=tst: must be a share of the training images"),
        ("device.name=cudda", "device.name=cudda: must be auto, cpu, cuda or mps; did you mean cuda?"),
        ("device.threads=0", "device.threads=0: must be a whole number, 1 or more"),
        ("seed=-1", "seed=-1: must be a whole number from 0"),
        ("epochs=1.5", "epochs=1.5: must be a whole number, 1 or more"),
        ("~optimizer", "optimizer: is missing from the config"),
    ],
)
def test_a_mistake_is_told_by_key_value_and_what_is_allowed(overrides: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(RunConfig, composed(*overrides.split()))


def test_arguments_of_ones_own_class_are_passed_on() -> None:
    settings = check(
        RunConfig, composed("+optimizer.dampening=0.5", "model._target_=mine.Net", "+model.n=3")
    )
    assert settings.optimizer.call()["dampening"] == 0.5
    assert settings.model.call()["n"] == 3


def test_ones_own_classes_may_use_the_names_of_torchs_arguments_otherwise() -> None:
    settings = check(
        RunConfig,
        composed(
            *("optimizer._target_=mine.Three", "+optimizer.betas=[0.9,0.99,0.999]", "optimizer.momentum=2"),
            *("scheduler._target_=mine.Warm", "scheduler.warmup=500"),
            *("dataset._target_=mine.satellite", "+dataset.channels=4", "+dataset.test=tiles"),
        ),
    )
    assert settings.optimizer.call()["betas"] == [0.9, 0.99, 0.999]
    assert settings.optimizer.call()["momentum"] == 2
    assert settings.scheduler.call()["warmup"] == 500
    assert settings.dataset.call() == {"_target_": "mine.satellite", "channels": 4, "test": "tiles"}


@pytest.mark.parametrize("group", ["optimizer.lr=-1", "scheduler.interval=step", "dataset.validation=2"])
def test_what_every_class_has_is_checked_in_ones_own_too(group: str) -> None:
    with pytest.raises(UserError, match=f"^{group}: must be"):
        check(RunConfig, composed(f"{group.partition('.')[0]}._target_=mine.Own", group))


# ---- passwords ----


@pytest.mark.parametrize(
    "address",
    [
        "http://me:{}@host:5000",
        "postgresql://me:{}@host/mlflow",
        "postgresql://me:{}@word@host/mlflow",
        "http://me@corp:{}@host:5000",
        "http://host:5000?password={}",
        "postgresql://host/mlflow?user=me&password={}&sslmode=require",
        pytest.param(
            "postgresql://me:{}/more@host/mlflow",
        ),
    ],
)
@pytest.mark.parametrize("sentence", ["{}", "tracking.uri={}: the store (at {}) does not answer"])
def test_a_password_is_masked_wherever_it_stands(address: str, sentence: str) -> None:
    text = sentence.replace("{}", address.replace("{}", "secret"))
    masked = without_password(text)
    assert "secret" not in masked and "word" not in masked.replace("password", "")
    assert masked.count("***") == text.count("secret")
    assert "host" in masked and masked.startswith(sentence.partition("{}")[0])


@pytest.mark.parametrize("around", ["('{}')", "'tracking.uri={}' seed=3"])
def test_only_the_password_is_masked(around: str) -> None:
    """A command line that is filed stays one that a shell can read."""
    text = around.replace("{}", "http://host?password=secret")
    assert without_password(text) == text.replace("secret", "***")


def test_an_address_without_a_password_stays_as_it_is() -> None:
    text = "http://host:5000/a@b, sqlite:///outputs/mlflow.db and postgresql://me@host:5432/mlflow"
    assert without_password(text) == text


@pytest.mark.parametrize("address", ["http://me:{}@host:5000", "http://host:5000?user=me&password={}"])
def test_no_password_is_left_with_what_repeats_a_run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from the command line nor from a change that was not committed."""
    password = secrets.token_hex(8)
    uri = address.format(password)
    project = tmp_path / "project"
    project.mkdir()
    (project / "mlflow.yaml").write_text(f"uri: {uri}\n")
    committed = "-c user.name=me -c user.email=me@host commit -q --allow-empty -m first"
    for command in ("init -q", committed, "add mlflow.yaml"):
        subprocess.run(["git", *command.split()], cwd=project, check=True)
    monkeypatch.setattr(provenance, "PROJECT", project)
    monkeypatch.setattr(sys, "argv", ["scripts/run.py", f"tracking.uri={uri}", "seed=3"])
    folder = tmp_path / "run"
    assert provenance.write(folder, composed(f"tracking.uri='{without_password(uri)}'"), {})
    written = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert "seed=3" in written["command.txt"] and "+uri: http://" in written["uncommitted.diff"]
    assert "host:5000" in written["config.yaml"]
    assert not [name for name, text in written.items() if password in text]
