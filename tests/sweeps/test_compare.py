"""scripts/compare.py runs=…: runs that differ in anything stay apart, and only what can be compared is."""

import csv
import re
from typing import Any

import pytest

from helpers import Command, InProcess
from lenetexp.sweeps.compare import find_differing_keys, tabulate_settings

SGD = {"optimizer._target_": "torch.optim.SGD", "optimizer.lr": "0.1", "optimizer.momentum": "0.9"}
ADAM = {"optimizer._target_": "torch.optim.Adam", "optimizer.lr": "0.1", "optimizer.eps": "1e-8"}
FOLDER = {"dataset._target_": "lenetexp.datasets.image_folder"}
MNIST = {"dataset._target_": "lenetexp.datasets.torchvision_dataset", "dataset.name": "MNIST"}
EPOCHS = [{"scheduler.epochs": "5", "epochs": "5"}, {"epochs": "9", "scheduler.epochs": "9"}]


def table_of(here: InProcess) -> list[dict[str, str]]:
    """The newest comparison's table.csv."""
    newest = max(here.cwd.glob("outputs/comparisons/*/table.csv"), key=lambda path: path.stat().st_mtime)
    return [*csv.DictReader(newest.read_text().splitlines())]


@pytest.mark.parametrize(
    ("params", "keys"),
    [
        ([SGD | EPOCHS[0], ADAM | EPOCHS[1], ADAM | EPOCHS[0]], ["optimizer._target_", "epochs"]),
        ([SGD, SGD | {"optimizer.momentum": "0.5"}, ADAM], ["optimizer._target_", "optimizer.momentum"]),
        ([SGD, ADAM | {"optimizer.lr": "0.01"}], ["optimizer._target_", "optimizer.lr"]),
        ([SGD, {**ADAM, "optimizer.momentum": "0.5"}, {"optimizer._target_": "A"}],
         ["optimizer._target_", "optimizer.momentum"]),
        ([SGD | {"optimizer": "sgd"}, ADAM], ["optimizer._target_"]),
        ([FOLDER | {"dataset.root": "a"}, FOLDER | {"dataset.root": "b"}], ["dataset.root"]),
        ([MNIST | {"dataset.root": "a"}, MNIST | {"dataset.root": "b"}], []),
        ([MNIST, MNIST | {"dataset.name": "KMNIST"}, FOLDER | {"dataset.root": "b"}], ["dataset._target_"]),
        ([SGD, SGD | {"device.threads": "1"}], ["device.threads"]),
        ([SGD | {"device.threads": "None"}, SGD | {"device.threads": "auto"}], []),  # null, as auto was called before
        ([SGD, SGD | {"tracking.uri": "a", "published": "0.9", "data_dir": "b"}], []),
        ([SGD, SGD | {"ema": "None", "loss.label_smoothing": "0.0", "optimizer.lr": "0.10"}], ["optimizer.lr"]),
        ([SGD, SGD | {"ema": "0.99"}], ["ema"]),
    ],
)  # fmt: skip
def test_runs_are_compared_by_what_differs_and_not_by_what_follows_from_it(
    params: list[dict[str, Any]], keys: list[str]
) -> None:
    assert find_differing_keys(tabulate_settings(params)) == keys


def test_a_setting_that_a_run_lacks_is_a_value_of_its_own(here: InProcess, typed: Command) -> None:
    for words in (["model.activation=relu"], ["model.activation=sigmoid"], ["model=knn"]):
        here.train("epochs=1", *words, recipe=())
    done = typed("compare", "runs=all", f"tracking.uri={here.uri}")
    assert done.returncode == 0, done.stderr
    rows = table_of(here)
    assert sorted((row["model._target_"], row["model.activation"]) for row in rows) == [
        ("LeNet", "relu"), ("LeNet", "sigmoid"), ("NearestNeighbours", "–"),
    ]  # fmt: skip
    assert "repeat" not in done.stdout and "mean" not in done.stdout
    assert re.search(r"best +(model=NearestNeighbours|activation=)", done.stdout)
    assert {row["folder"] for row in rows} == {f"outputs/runs/{i}" for i in range(3)}


def test_runs_on_different_images_are_not_compared(here: InProcess, typed: Command) -> None:
    """Two splits of digits: the swept share has a column beside the accuracy, and each split its own best run."""
    for share in ("0.1", "0.3"):
        for activation in ("relu", "tanh"):
            here.train("epochs=1", f"dataset.validation={share}", f"model.activation={activation}")
    done = typed("compare", "runs=all", f"tracking.uri={here.uri}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +dataset.validation +activation +validation +epoch", done.stdout, re.MULTILINE), done.stdout
    said = " ".join(done.stdout.split())
    assert "validated on 2 sets of images; accuracies are compared only within one" in said
    for share, images in (("0.1", 143), ("0.3", 434)):
        assert re.search(rf"on digits, validation={share}: best activation=\w+ tied with the best", said)
        assert f"Fisher's exact test on {images} validation images, corrected for 1 comparison" in said
        assert re.search(rf"best run on digits, validation={share}: dataset.validation={share}, activation=\w+: ", said)
    assert [row["images"][-3:] for row in table_of(here)] == ["0.3", "0.3", "0.1", "0.1"], "the newest first"
