"""The learning-rate range test finds the range in which runs learn, and says so where there is none."""

import csv
import re
from pathlib import Path

import pytest

from helpers import Command, make_data, run_script
from lenetexp.training.loop import Recipe
from lenetexp.training.lr_range import Step, lr_range, suggested
from sample_training import make_training


def test_the_rate_rises_by_the_same_factor_from_the_first_to_the_last_step() -> None:
    steps = lr_range(make_training(), make_data().train, Recipe(1, 16, 0), 1e-6, 1e-3, 31)
    rates = [step.lr for step in steps]
    assert rates == pytest.approx([1e-6 * 10 ** (i / 10) for i in range(31)])
    assert steps[0].smooth == pytest.approx(steps[0].loss), "the mean is corrected for its start"


def test_it_stops_when_the_loss_explodes() -> None:
    assert len(lr_range(make_training(), make_data().train, Recipe(1, 16, 0), 1e-3, 1e6, 200)) < 200


def made(*losses: float) -> list[Step]:
    return [Step(10 ** (i / 10 - 5), loss, loss) for i, loss in enumerate(losses)]


def test_the_range_begins_where_the_loss_falls_and_ends_below_its_lowest() -> None:
    """Flat at 2.3 for 20 steps, down to 0.3 over 20 steps, fastest in their middle, then up."""
    fall = [2.3 - 2 * i * i * (3 - 2 * i) for i in (k / 20 for k in range(1, 21))]
    found = suggested(made(*[2.3] * 20, *fall, *[0.3 + 0.4 * i for i in range(1, 8)]))
    assert found is not None
    low, best, high = found
    assert low == pytest.approx(10 ** (23 / 10 - 5)) and high == pytest.approx(10 ** (39 / 10 - 5) / 2)
    assert best == pytest.approx(10 ** (29 / 10 - 5), rel=0.3)


@pytest.mark.parametrize("losses", [[2.3] * 50, [2.3 + 0.1 * i for i in range(50)], [2.3, 1.0]])
def test_without_a_fall_nothing_is_suggested(losses: list[float]) -> None:
    assert suggested(made(*losses)) is None


def test_the_command_suggests_rates_that_learn(tmp_path: Path) -> None:
    done = run_script("find_lr", "steps=300", "device=cpu", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rate = re.search(r"try      python scripts/run.py device=cpu optimizer.lr=(\S+)", done.stdout)
    assert rate and 3e-3 <= float(rate[1]) <= 0.1, "docs/defaults.md: these learn"
    (folder,) = (tmp_path / "outputs/lr_ranges").iterdir()
    assert {path.name for path in folder.iterdir()} == {"lr_range.csv", "lr_range.png"}
    with (folder / "lr_range.csv").open() as file:
        assert next(iter(csv.reader(file))) == ["lr", "loss", "smoothed_loss"]
    assert not (tmp_path / "outputs/mlflow.db").exists(), "it is no run"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("from_lr=20", "from_lr=20"),
        ("steps=0", "steps=0"),
        ("to_lr=-1", "to_lr=-1"),
        ("optimizer.lr=x", "optimizer.lr=x"),
    ],
)
def test_what_is_wrong_is_one_sentence(typed: Command, word: str, said: str) -> None:
    done = typed("find_lr", word)
    assert done.returncode and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1
