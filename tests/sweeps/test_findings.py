"""What a sweep's summary says: what differs, what is tied, how many seeds it takes, and the command that adds them."""

import re
import shlex
import subprocess
import sys
from math import nan
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from helpers import InProcess, Store, composed, run_script
from lenetexp.config.commands import CompareConfig
from lenetexp.config.schema import check_config
from lenetexp.sweeps.compare import compare
from lenetexp.sweeps.findings import Comparison, Findings, add_seeds, compute_findings
from lenetexp.sweeps.image_sets import Images
from lenetexp.sweeps.results import group_recipes, sort_best_first
from lenetexp.sweeps.summary import show_results

COMMAND = ["scripts/run.py", "-m", "model.a=x,y", "seed=0,1"]


def of(accuracies: dict[str, list[float]], images: float = 143, command: list[str] = COMMAND) -> tuple[str, str]:
    """The summary, and the place of the best, of settings a=… with these accuracies by seed."""
    known = {"status": "finished", "reason": "", "before": False, "val_images": images, "run_id": "x", "trust": ""}
    found = [
        {**known, "a": name, "seed": str(seed), "best_val_accuracy": accuracy}
        for name, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    recipes = group_recipes(sort_best_first(found, ["a", "seed"]), ["a", "seed"])
    summary = compute_findings(recipes, ["a"], command)
    return "\n".join(": ".join(filter(None, pair)) for pair in summary.sentences), summary.places.get("", "")


def near(mean: float, seeds: int = 8, deviation: float = 0.004) -> list[float]:
    return [*(mean + np.random.default_rng(round(1000 * mean)).normal(0, deviation, seeds))]


def test_settings_that_differ_and_settings_that_are_tied() -> None:
    x = near(0.97)
    said, place = of({"x": x, "y": [value - 0.0001 * (-1) ** i for i, value in enumerate(x)], "z": near(0.9)})
    assert place == "tied with 1 other"
    assert re.search(r"best: a=[xy]\ntied with the best: a=[xy] by 0.00 ± 0.01 points \(p = 1.000\)\n", said)
    assert re.search(r"significantly worse: a=z by 7.\d\d ± 0.\d\d points \(p = 0.0[01]\d\)\n", said)
    assert said.endswith("sign-flip test on 8 paired seeds, corrected for 3 comparisons; ± is the 95 % interval")


def test_a_sweep_of_many_settings_is_told_in_few_lines() -> None:
    said, place = of({f"s{i}": near(0.5 + 0.02 * i, seeds=13) for i in range(20)})
    assert place == "significantly better than the rest" and said.count("\n") == 3
    assert "tied with the best: none\nsignificantly worse: a=s18 by" in said and "and 15 more" in said


def test_too_few_seeds_are_said_to_be_so_with_the_command_that_adds_them() -> None:
    said, place = of({"x": near(0.97, 3), "y": near(0.1, 3)})
    assert said.startswith("seeds: 3 are too few to show a difference, however large: an exact two-sided test")
    assert place == "too few seeds to tell it from the others"
    assert "seeds needed: 6 for 2 settings (3 more), to detect a difference of three standard deviations;" in said
    assert said.endswith(": python scripts/run.py -m model.a=x,y 'seed=range(6)' resume=true")
    # Six are enough for a test, but not for the corrections of four settings.
    said, _ = of({name: near(0.9, 6) for name in "wxyz"}, command=[])
    assert "on 6 paired seeds" in said and "8 for 4 settings (2 more)" in said
    assert said.endswith("sweep them with 'seed=range(8)'")


def test_of_one_seed_the_validation_images_decide() -> None:
    """140, 138 and 90 of 143; scipy's Fisher's p of the first two is 0.72, times the three pairs."""
    shares = {"x": [140 / 143], "y": [138 / 143], "z": [90 / 143]}
    said, place = of(shares)
    assert place == "tied with 1 other"
    assert (
        "best: a=x\ntied with the best: a=y by 1.40 points (p = 1.000)\n"
        "significantly worse: a=z by 34.97 points (p < 0.001)" in said
    )
    assert "on 143 validation images, corrected for 3 comparisons; one seed cannot show how much seeds vary" in said
    assert "7 for 3 settings" in said and "'seed=range(7)' resume=true" in said
    said, place = of(shares, images=nan)
    assert place == "" and said.startswith("seeds needed"), "nothing is said of what is unknown"


def test_one_setting_is_compared_with_nothing() -> None:
    assert of({"x": near(0.9)}) == of({"x": near(0.9), "y": [nan] * 8}) == ("", "")


@pytest.mark.parametrize(
    ("used", "seeds"),
    [([], "range(4)"), (["0"], "range(4)"), (["3", "2"], "range(2,6)"), (["7", "1"], "1,2,3,7")],
)  # fmt: skip
def test_seeds_are_added_to_those_that_were_used(used: list[str], seeds: str) -> None:
    words = ["run.py", "-m", "sweep=lr", "seed=9", "resume=false", "seed_like=1"]
    *same, seed, resume = shlex.split(add_seeds(words, used, 4))
    assert same == ["python", "run.py", "-m", "sweep=lr", "seed_like=1"]
    assert (seed, resume) == (f"seed={seeds}", "resume=true")


def test_the_best_settings_are_told_by_their_means_and_not_by_a_lucky_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"status": "finished", "reason": "", "before": False, "run_id": "x", "trust": ""}
    by_seed = {"x": [0.90, 0.92], "y": [0.80, 0.99]}
    found = [
        {**known, "a": name, "seed": str(seed), "best_val_accuracy": accuracy}
        for name, values in by_seed.items()
        for seed, accuracy in enumerate(values)
    ]
    show_results(sort_best_first(found, ["a", "seed"]), ["a", "seed"], tmp_path, None)
    out = " ".join(capsys.readouterr().out.split())
    assert "best settings a=x: mean validation 91.00%; too few seeds to tell it from the others" in out
    assert "99.00%" not in out
    one = DataFrame(found)[["a", "best_val_accuracy"]].iloc[[0, 3]].assign(**known, val_images=100)
    show_results(sort_best_first(one.to_dict("records"), ["a"]), ["a"], tmp_path, None)
    assert " best run a=y: validation 99.00%; significantly better than the rest " in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.slow
def test_the_command_that_a_summary_gives_adds_the_seeds_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    cwd, words = tmp_path, ["-m", "experiment=smoke", "model.activation=relu,sigmoid", "seed=0,1", "epochs=1"]
    done = run_script("run", *words, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "2 are too few to show a difference" in said and "6 for 2 settings (4 more)" in said
    (line,) = [line for line in done.stdout.splitlines() if line.endswith("resume=true")]
    python, *words = shlex.split(line)
    assert python == "python"
    again = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert "4 of 12 runs finished already" in again.stdout, again.stderr
    said = " ".join(again.stdout.split())
    assert "best activation=relu" in said and "on 6 paired seeds, corrected for 1 comparison" in said
    assert "significantly worse activation=sigmoid by" in said and "significantly better than the rest" in said
    assert "seeds needed" not in said
    (sweep,) = Store(cwd).sweeps
    (folder,) = cwd.glob("outputs/sweeps/*")
    text = (folder / "table.txt").read_text()
    assert text in again.stdout and text in run_script("compare", "sweep=latest", cwd=cwd).stdout
    assert text.strip() in sweep.data.tags["mlflow.note.content"]


def test_two_runs_are_compared_on_each_test_image(
    here: InProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compared() -> str:
        values = composed(f"tracking.uri={here.uri}", "runs=all", name="compare")
        compare(check_config(CompareConfig, values), values, tmp_path / "comparison")
        return " ".join(capsys.readouterr().out.split())

    here.train("epochs=1")
    here.train("epochs=1", "model.activation=tanh")
    tables = [np.loadtxt(path, delimiter=",", skiprows=1) for path in sorted(here.cwd.glob("outputs/runs/*/pred*.csv"))]
    (labels, one), (_, other) = ((table[:, 1], table[:, 2]) for table in tables)
    accuracies = sorted(run.data.metrics["test/accuracy"] for run in here.runs)
    assert sorted([(one == labels).mean(), (other == labels).mean()]) == pytest.approx(accuracies)
    assert all("predictions.csv" in here.artifacts(run) for run in here.runs)
    only_relu, only_tanh = (((a == labels) & (b != labels)).sum() for a, b in ((one, other), (other, one)))
    said = compared()
    assert f"the two differ on {(one != other).sum()} of 359; only activation=" in said
    assert f"only activation=relu is right on {only_relu}" in said or f"only activation=relu on {only_relu}:" in said
    assert f"activation=tanh is right on {only_tanh}" in said or f"activation=tanh on {only_tanh}:" in said
    assert "McNemar's exact p" in said
    path = here.cwd / "outputs/runs/0/predictions.csv"
    path.write_text(path.read_text().replace("\n0,", "\n0,1", 1))
    assert "McNemar" not in compared(), "other test images"
    path.unlink()
    assert "McNemar" not in compared(), "an older run"


def test_in_a_report_a_command_follows_its_sentence() -> None:
    summary = Findings([Comparison(lines=[("best", "lr=0.1")])], "3 more:", "python scripts/run.py -m seed=1")
    assert summary.sentences == [("best: lr=0.1", ""), ("seeds needed: 3 more:", "python scripts/run.py -m seed=1")]


def test_accuracies_on_different_images_are_neither_ranked_nor_compared_nor_averaged(tmp_path: Path) -> None:
    """Two rates on two datasets, and a third split of one: x is better by far everywhere."""
    digits, other_split = Images("digits", "0.1", "0", "ab"), Images("digits", "0.3", "0", "ab")
    mnist = Images("MNIST", "0.1", "0", "cd")
    known = {"status": "finished", "reason": "", "before": False, "run_id": "x", "trust": "", "val_images": 1000}
    rows = [
        {**known, "lr": lr, "images": images, "best_val_accuracy": accuracy - (lr == "9") / 2}
        for images, accuracy in ((digits, 0.7), (mnist, 0.99), (other_split, 0.8))
        for lr in ("1", "9")
    ]
    runs = sort_best_first([*rows, {**known, "lr": "1", "images": None, "status": "failed"}], ["lr"])
    recipes = group_recipes(runs, ["lr"])
    assert [*recipes.accuracy.dropna().round(2)] == [0.7, 0.2, 0.99, 0.49, 0.8, 0.3]
    summary = compute_findings(recipes, ["lr"], [])
    sets = ["digits, validation=0.1", "MNIST, validation=0.1", "digits, validation=0.3"]
    assert [one.images for one in summary.comparisons] == sets
    for one in summary.comparisons:
        assert one.lines[0] == ("best", "lr=1") and one.lines[2][1].startswith("lr=9 by 50.00 points")
        assert "corrected for 1 comparison;" in one.lines[3][1], "with the only other recipe on these images"
    show_results(runs, ["lr"], tmp_path, None)
    text = (tmp_path / "table.txt").read_text()
    assert "3 sets of images; accuracies are compared only within one" in " ".join(text.split())
    assert [not line for line in text.splitlines()[:9]] == [False] * 3 + [True] + [False] * 2 + [True] + [False] * 2
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"accuracy_1_digits_validation_0_1", "accuracy_2_MNIST_validation_0_1"} <= names
