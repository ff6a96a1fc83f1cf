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
from lenetexp.config.schema import check
from lenetexp.sweeps.compare import compare
from lenetexp.sweeps.findings import Findings, findings, with_seeds
from lenetexp.sweeps.results import best_first, recipes_of, show_results

COMMAND = ["scripts/run.py", "-m", "model.a=x,y", "seed=0,1"]


def of(accuracies: dict[str, list[float]], images: float = 143, command: list[str] = COMMAND) -> tuple[str, str]:
    """The summary, and the place of the best, of settings a=… with these accuracies by seed."""
    known = {"status": "finished", "reason": "", "before": False, "val_images": images, "run_id": "x", "trust": ""}
    found = [
        {**known, "a": name, "seed": str(seed), "best_val_accuracy": accuracy}
        for name, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    recipes = recipes_of(best_first(found, ["a", "seed"]), ["a", "seed"])
    told = findings(recipes, ["a"], command)
    return "\n".join(": ".join(pair) for pair in told.lines), told.place


def near(mean: float, seeds: int = 8, deviation: float = 0.004) -> list[float]:
    return [*(mean + np.random.default_rng(round(1000 * mean)).normal(0, deviation, seeds))]


def test_settings_that_differ_and_settings_that_are_tied() -> None:
    x = near(0.97)
    said, place = of({"x": x, "y": [value - 0.0001 * (-1) ** i for i, value in enumerate(x)], "z": near(0.9)})
    assert place == "tied with 1 other"
    assert re.search(r"best: a=[xy]\ntied with the best: a=[xy] by 0.00 ± 0.01 points \(p = 1.000\)\n", said)
    assert re.search(r"behind beyond seed noise: a=z by 7.\d\d ± 0.\d\d points \(p = 0.0[01]\d\)\n", said)
    assert said.endswith("sign-flip tests, paired over 8 seeds, corrected for 3 pairs; ± is a 95 % interval")


def test_a_sweep_of_many_settings_is_told_in_few_lines() -> None:
    said, place = of({f"s{i}": near(0.5 + 0.02 * i, seeds=13) for i in range(20)})
    assert place == "alone at the top" and said.count("\n") == 3
    assert "tied with the best: none\nbehind beyond seed noise: a=s18 by" in said and "and 15 more" in said


def test_too_few_seeds_are_said_to_be_so_with_the_command_that_adds_them() -> None:
    said, place = of({"x": near(0.97, 3), "y": near(0.1, 3)})
    assert said.startswith("seeds: 3 cannot show a difference, however large: an exact two-sided test takes 6")
    assert place == "not told apart from the others yet"
    assert "2 settings need 6 to show a difference of three seed deviations, 3 more (finished runs count):" in said
    assert said.endswith(": python scripts/run.py -m model.a=x,y 'seed=range(6)' resume=true")
    # Six are enough for a test, but not for the corrections of four settings.
    said, _ = of({name: near(0.9, 6) for name in "wxyz"}, command=[])
    assert "paired over 6 seeds" in said and said.endswith("2 more; sweep them with 'seed=range(8)'")


def test_of_one_seed_the_validation_images_decide() -> None:
    """140, 138 and 90 of 143; scipy's Fisher's p of the first two is 0.72, times the three pairs."""
    shares = {"x": [140 / 143], "y": [138 / 143], "z": [90 / 143]}
    said, place = of(shares)
    assert place == "tied with 1 other"
    assert (
        "best: a=x\ntied with the best: a=y by 1.40 points (p = 1.000)\nbehind: a=z by 34.97 points (p < 0.001)" in said
    )
    assert "on 143 validation images, corrected for 3 pairs; one seed does not show seed noise" in said
    assert "3 settings need 7" in said and "'seed=range(7)' resume=true" in said
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
    *same, seed, resume = shlex.split(with_seeds(words, used, 4))
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
    show_results(best_first(found, ["a", "seed"]), ["a", "seed"], tmp_path, None)
    out = capsys.readouterr().out
    assert "best settings  a=x: mean validation 91.00%; not told apart from the others yet" in out
    assert "99.00%" not in out
    one = DataFrame(found)[["a", "best_val_accuracy"]].iloc[[0, 3]].assign(**known, val_images=100)
    show_results(best_first(one.to_dict("records"), ["a"]), ["a"], tmp_path, None)
    assert " best run a=y: validation 99.00%; alone at the top " in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_command_that_a_summary_gives_adds_the_seeds_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    cwd, words = tmp_path, ["-m", "experiment=smoke", "model.activation=relu,sigmoid", "seed=0,1", "epochs=1"]
    done = run_script("run", *words, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "2 cannot show a difference" in said and "2 settings need 6" in said and "4 more" in said
    (line,) = [line for line in done.stdout.splitlines() if line.endswith("resume=true")]
    python, *words = shlex.split(line)
    assert python == "python"
    again = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert "4 of 12 runs finished already" in again.stdout, again.stderr
    said = " ".join(again.stdout.split())
    assert "best activation=relu" in said and "paired over 6 seeds, corrected for 1 pair" in said
    assert "behind beyond seed noise activation=sigmoid by" in said and "alone at the top" in said
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
        compare(check(CompareConfig, values), values, tmp_path / "comparison")
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
    lines = [("best", "lr=0.1"), ("seeds needed", "3 more:"), ("", "python scripts/run.py -m seed=1")]
    assert Findings(lines).sentences == ["best: lr=0.1", "seeds needed: 3 more: python scripts/run.py -m seed=1"]
