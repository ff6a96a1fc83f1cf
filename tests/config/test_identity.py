"""What makes two runs the same experiment, and how an experiment is named."""

import re

import pytest

from helpers import composed
from lenetexp.config.identity import (
    flatten_settings,
    format_run_name,
    format_swept,
    format_trust,
    hash_config,
    is_part_of_experiment,
    list_differences,
    shorten_value,
)


def test_the_hash_distinguishes_experiments_and_ignores_where_they_are_recorded() -> None:
    same = hash_config(composed("dataset=mnist"))
    assert re.fullmatch("[0-9a-f]{12}", same)
    for elsewhere in (
        "tracking.uri=http://host:5000", "tracking.experiment=other", "data_dir=/big", "dataset.root=/big/disk",
        "resume=true", "trust=[mine]",
    ):  # fmt: skip
        assert hash_config(composed("dataset=mnist", elsewhere)) == same, elsewhere
    for another in ("optimizer.lr=0.123", "seed=12", "epochs=123", "model.activation=tanh", "dataset=kmnist"):
        assert hash_config(composed("dataset=mnist", another)) != same, another


def test_a_folder_of_pictures_is_another_experiment_in_another_place() -> None:
    hashes = {hash_config(composed("dataset=image_folder", f"dataset.root={root}")) for root in "ab"}
    assert len(hashes) == 2


def test_a_setting_that_is_new_leaves_older_hashes_as_they_were() -> None:
    values = composed("experiment=tutorial")
    older = {**values, "model": {key: value for key, value in values["model"].items() if key != "init"}}
    assert hash_config(values) == hash_config(older)
    assert hash_config(composed("experiment=tutorial", "model.init=xavier")) != hash_config(older)


def test_a_default_run_has_the_hash_that_it_had_before_it_chose_its_threads_itself() -> None:
    values = composed()
    assert values["device"]["threads"] == "auto"
    assert hash_config(values) == hash_config(composed("device.threads=null"))
    assert hash_config(values) != hash_config(composed("device.threads=1"))


def test_the_hash_distinguishes_seeds_that_a_float_cannot_hold() -> None:
    assert hash_config({"seed": 2**53}) != hash_config({"seed": 2**53 + 1})


@pytest.mark.parametrize(
    ("whole", "decimal"),
    [
        ("optimizer.lr=1", "optimizer.lr=1.0"),
        ("dataset.augment={shift:2}", "dataset.augment={shift:2.0}"),
        ("optimizer=adam optimizer.betas=[0,0.9]", "optimizer=adam optimizer.betas=[0.0,0.9]"),
    ],
)
def test_a_whole_number_and_its_decimal_have_the_same_hash(whole: str, decimal: str) -> None:
    assert hash_config(composed(*whole.split())) == hash_config(composed(*decimal.split()))


def test_leaves_have_dotted_names() -> None:
    nested = {"a": {"b": {"c": 1}, "list": [1, {"d": 2}]}, "empty": {}, "e": None}
    assert dict(flatten_settings(nested)) == {"a.b.c": 1, "a.list": [1, {"d": 2}], "empty": {}, "e": None}


def test_differences_have_both_values() -> None:
    then, now = {"seed": 1, "a": {"b": 2.0}, "old": 3, "resume": False}, {"seed": 4, "a": {"b": 2}, "resume": True}
    assert list_differences(then, now) == {"seed": (1, 4), "old": (3, "not set")}


def test_only_some_keys_define_an_experiment() -> None:
    for key in ("optimizer.lr", "seed", "+experiment", "dataset"):
        assert is_part_of_experiment(key), key
    for key in ("tracking.uri", "resume", "++trust", "hydra/launcher", "hydra.run.dir", "sweep", "data_dir", "job.cwd"):
        assert not is_part_of_experiment(key), key


def test_a_run_is_named_by_what_was_asked_for() -> None:
    asked = ["optimizer.lr=0.02", "+model.activation=relu", "tracking.uri=x", "hydra.run.dir=y", "dataset.root=z"]
    assert format_run_name(asked) == "lr=0.02 activation=relu"
    assert format_run_name(["device=cpu", "device.threads=1", "optimizer.fused=false", "epochs=2"]) == "epochs=2"
    assert format_run_name([]) == ""
    assert format_run_name(["device.threads=1", "device=cpu", "dataset.root=x", "epochs=2"]) == "epochs=2", (
        "what is run"
    )
    assert len(format_run_name([f"model.x{i}={i}" for i in range(99)])) == 120, "what MLflow's table can show"


def test_swept_keys_are_named_by_their_ends_unless_two_are_the_same() -> None:
    assert format_swept({"optimizer.lr": "0.0316227766", "seed": "1234567890"}) == "lr=0.03162 seed=1234567890"
    assert format_swept({"model.a": "1", "optimizer.a": "2"}) == "model.a=1 optimizer.a=2"
    assert [shorten_value(value) for value in ("0.1", "scaled_tanh", "12345.678901")] == [
        "0.1",
        "scaled_tanh",
        "1.235e+04",
    ]


def test_a_command_that_loads_custom_classes_must_trust_their_packages() -> None:
    assert format_trust(["lenetexp.models.LeNet", "torch.optim.SGD", ""]) == ""
    assert format_trust(["mine.Net", "torch.optim.SGD", "mine.Two", "other.x"]) == " 'trust=[mine,other]'"
