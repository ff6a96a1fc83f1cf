"""The files of conf/: every option composes and is explained, the README's table is theirs, recipes are complete."""

import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_method
from omegaconf import OmegaConf

from doc_tables import TABLES, read_history, write_table
from helpers import CONF, OPTIONS, PROJECT, Command, composed
from lenetexp.config.identity import flatten_settings, list_differences
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.config.targets import CLASSICAL

FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent.name not in ("help", "local"))
RECIPES = [path for path in FILES if path.is_relative_to(CONF / "experiment")]
EXPLAINED = [path for path in FILES if path not in RECIPES and path.parent.name != "sweep"]
README = (PROJECT / "README.md").read_text()
GROUPS = {
    group: {path.stem for path in (CONF / group).glob("[!_]*.yaml")}
    for group in {*(option.partition("=")[0] for option in OPTIONS), "hydra/sweeper", "hydra/launcher"}
}


def with_root(option: str) -> list[str]:
    """The one option that needs a folder is given one."""
    return [option, "dataset.root=pictures"] if option == "dataset=image_folder" else [option]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_to_a_correct_config(option: str) -> None:
    """And what it names exists and takes the arguments that the file gives."""
    settings = check_config(RunConfig, composed(*with_root(option)))
    group = option.partition("=")[0]
    added = {
        "model": {"classes": 10, "channels": 1},
        "optimizer": {"params": []},
        "scheduler": {"optimizer": None},
        "dataset": {},
    }
    if group == "device":
        assert settings.device.name == option.partition("=")[2]
    if group in added:
        call = {**getattr(settings, group).build_call(), **added[group]}
        inspect.signature(get_method(call.pop("_target_"))).bind(**call)


# ---- the README and the docs ----


@pytest.mark.parametrize("page", TABLES)
def test_a_table_is_what_the_files_of_conf_and_the_measurements_say(page: str) -> None:
    assert write_table(page) == (PROJECT / page).read_text(), "python tests/support/doc_tables.py writes it"


def test_every_option_that_the_readme_uses_exists() -> None:
    """sweep= of compare.py and report.py names a sweep that ran, not an option; the table has a test of its own."""
    lines = [line for line in README.splitlines() if not re.search(r"compare\.py|report\.py|^\|", line)]
    used = re.findall(rf"(?<![\w.])({'|'.join(GROUPS)})=([a-z]\w*)(?!\w*\()", "\n".join(lines))
    assert {group for group, _ in used} >= {"experiment", "dataset", "optimizer", "sweep", "hydra/sweeper"}
    assert [f"{group}={name}" for group, name in used if name not in GROUPS[group]] == []


# ---- every file explains itself ----


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
    assert re.match(r"# \w", lines[1] if lines[0] == "# @package _global_" else lines[0])
    root = yaml.compose(text)
    settings = [(key, value) for key, value in root.value if key.value not in ("defaults", "hydra", "_target_")]
    for key, value in leaf_nodes(yaml.MappingNode(root.tag, settings)):
        if key == "_target_":
            continue
        rest_of_line = lines[value.end_mark.line][value.end_mark.column :]
        assert re.match(r" # \w", rest_of_line), f"{path}: {key} is not explained"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_what_it_gives_and_what_it_costs(path: Path) -> None:
    head = path.read_text().partition("defaults:")[0]
    for heading in ("What it is:", "What it gives:", "What it costs:"):
        assert re.search(rf"^# {heading} +\S.*\S$", head, re.MULTILINE)


ROWS = sorted(f"lecun_1998/{path.stem}" for path in (CONF / "experiment/lecun_1998").glob("*.yaml"))


def name_of(recipe: Path) -> str:
    return str(recipe.relative_to(CONF / "experiment").with_suffix(""))


@pytest.mark.parametrize("recipe", [name_of(path) for path in RECIPES])
def test_every_recipe_composes_to_a_correct_config(recipe: str) -> None:
    """Of its published accuracy, the head says the error."""
    settings = check_config(RunConfig, composed(f"experiment={recipe}"))
    head = re.search(r"published ([\d.]+) %", (CONF / f"experiment/{recipe}.yaml").read_text())
    if head:
        assert settings.published == pytest.approx(1 - float(head[1]) / 100)
    assert bool(head) == recipe.startswith("lecun_1998/")


def test_the_table_of_1998_has_every_row_and_three_seeds() -> None:
    sweep = yaml.safe_load((CONF / "sweep/lecun_1998.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert sorted(re.split(r",\s*", sweep["experiment"].strip())) == ROWS
    assert sweep["seed"] == "0,1,2"


@pytest.mark.parametrize("row", read_history(), ids=lambda row: row["recipe"])
def test_what_a_recipe_says_it_gives_is_what_was_measured(row: dict[str, Any]) -> None:
    head = (CONF / f"experiment/lecun_1998/{row['recipe']}.yaml").read_text()
    spread = f"({min(row['errors']):.2f} to {max(row['errors']):.2f})"
    assert f"What it gives: {row['mean']:.2f} % test error, the mean of 3 seeds {spread}" in head


def test_every_row_was_measured() -> None:
    assert sorted(f"lecun_1998/{row['recipe']}" for row in read_history()) == ROWS


# ---- recipes, schedules and this machine's settings ----


def test_the_tutorials_recipe_to_the_letter() -> None:
    """docs/tutorial.md: MNIST in [0, 1], batch 16, SGD 1e-3 with momentum 0.9, ×0.1 every 10 epochs, 10 epochs."""
    values = composed("experiment=tutorial")
    check_config(RunConfig, values)
    assert (values["epochs"], values["batch_size"]) == (10, 16)
    assert (values["clip_norm"], values["patience"]) == (None, None)
    model = {"activation": "sigmoid", "pooling": "avg", "head_activation": False, "init": "torch"}
    assert values["model"] == {"_target_": "lenetexp.models.LeNet", **model}
    del values["optimizer"]["fused"]  # the same sums
    sgd = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False}
    assert values["optimizer"] == {"_target_": "torch.optim.SGD", **sgd}
    step = {"interval": "epoch", "step_size": 10, "gamma": 0.1}
    assert values["scheduler"] == {"_target_": "torch.optim.lr_scheduler.StepLR", **step}
    dataset = values["dataset"]
    assert (dataset["name"], dataset["validation"], dataset["augment"]) == ("MNIST", "test", None)
    assert values["device"]["precision"] == "fp32"


def test_the_command_line_changes_a_recipe() -> None:
    values = composed("experiment=tutorial", "optimizer.lr=0.5", "dataset=digits")
    assert values["optimizer"]["lr"] == 0.5
    assert values["dataset"]["_target_"] == "lenetexp.datasets.digits"


def test_the_length_of_a_schedule_follows_the_run() -> None:
    for scheduler, key in (("warmup_cosine", "epochs"), ("onecycle", "epochs"), ("cosine", "T_max")):
        assert composed(f"scheduler={scheduler}", "epochs=7")["scheduler"][key] == 7
    assert composed("scheduler=onecycle", "optimizer.lr=0.25")["scheduler"]["max_lr"] == 0.25


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of conf/, to which a machine's own settings can be added."""
    return Path(shutil.copytree(CONF, tmp_path / "conf"))


def write_machine(conf: Path, text: str) -> None:
    (conf / "local/machine.yaml").write_text(f"# @package _global_\n{text}")


def test_the_command_line_overrides_a_machines_own_settings(conf: Path) -> None:
    write_machine(conf, "epochs: 7\ndata_dir: /big/disk\ntracking: {uri: 'http://10.0.0.1:5000'}\n")
    values = composed("dataset=mnist", conf=conf)
    assert (values["epochs"], values["scheduler"]["epochs"]) == (7, 7)
    assert values["dataset"]["root"] == "/big/disk"
    assert values["tracking"]["uri"] == "http://10.0.0.1:5000"
    assert composed("epochs=3", conf=conf)["epochs"] == 3


def is_fitted_at_once(values: dict[str, Any]) -> bool:
    return values["model"]["_target_"].rpartition(".")[2] in CLASSICAL


# What nobody sets for a machine, or what follows from other settings.
NOT_A_MACHINES = ("seed", "optimizer.eps", "scheduler.epochs", "scheduler.steps_per_epoch")


@pytest.mark.parametrize(
    "recipe", [name_of(path) for path in RECIPES if path.stem != "smoke"]
)  # no result counts on it
def test_a_machines_own_settings_cannot_change_a_recipe(conf: Path, recipe: str) -> None:
    """Only where the record and the images are, and what computes."""
    values = composed(f"experiment={recipe}", conf=conf)
    other = OmegaConf.create()
    for key in dict(flatten_settings(values)):
        # Two of these say which option a group has.
        if not key.endswith("._target_") and key not in ("dataset.name", *NOT_A_MACHINES):
            OmegaConf.update(other, key, "other")
    groups = "defaults: [override /optimizer: adam, override /scheduler: cosine, override /dataset: digits]\n"
    write_machine(conf, groups + OmegaConf.to_yaml(other))
    changed = composed(f"experiment={recipe}", conf=conf)
    assert (changed["data_dir"], changed["dataset"]["root"], changed["tracking"]["uri"]) == ("other",) * 3
    found = list_differences(values, changed)
    if is_fitted_at_once(values):  # nothing else has an effect
        found = [key for key in found if key.startswith(("model.", "dataset."))]
    allowed = {f"device.{key}" for key in ("name", "threads", "compile", "deterministic")}
    allowed.add("optimizer.fused")  # the same sums
    if values["dataset"]["validation"] == "test":
        allowed.add("dataset.split_seed")  # no image is held out
    assert {*found} <= allowed


def test_of_what_is_fitted_at_once_the_seed_decides_which_images_are_held_out() -> None:
    for row in ROWS:
        values = composed(f"experiment={row}", "seed=2")
        assert values["dataset"]["split_seed"] == (2 if is_fitted_at_once(values) else 0), row


@pytest.mark.parametrize("script", ["run", "predict"])
def test_both_commands_take_the_machine_file_that_its_readme_shows(typed: Command, tmp_path: Path, script: str) -> None:
    """It gets as far as asking for the store, and the command line has said where that is."""
    example = re.search(r"```yaml\n(.+?)```", (CONF / "local/README.md").read_text(), re.DOTALL)
    assert example
    (tmp_path / "mine/local").mkdir(parents=True)
    (tmp_path / "mine/local/machine.yaml").write_text(example[1])
    done = typed(script, "--config-dir", "mine", "tracking.uri=nowhere")
    assert done.stderr.startswith("error: tracking.uri=nowhere: ")
