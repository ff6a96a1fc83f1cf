"""The learning-rate range test finds the range in which runs learn, and says so where there is none."""

import csv
import re
from pathlib import Path

import pytest

from helpers import Command, make_data, run_script
from lenetexp.training.loop import Recipe
from lenetexp.training.lr_range import Step, run_range_test, suggest_rates
from sample_training import make_training


def test_the_rate_rises_by_the_same_factor_from_the_first_to_the_last_step() -> None:
    steps = run_range_test(make_training(), make_data().train, Recipe(1, 16, 0), 1e-6, 1e-3, 31)
    rates = [step.lr for step in steps]
    assert rates == pytest.approx([1e-6 * 10 ** (i / 10) for i in range(31)])
    assert steps[0].smooth == pytest.approx(steps[0].loss), "the mean is corrected for its start"


def test_it_stops_when_the_loss_explodes() -> None:
    assert len(run_range_test(make_training(), make_data().train, Recipe(1, 16, 0), 1e-3, 1e6, 200)) < 200


def made(*losses: float) -> list[Step]:
    return [Step(10 ** (i / 10 - 5), loss, loss) for i, loss in enumerate(losses)]


def test_the_rate_to_try_is_a_little_below_that_of_the_lowest_loss() -> None:
    """Flat at 2.3 for 20 steps, down to 0.3 over 20 steps, then up; what is smoothed lags 9 steps behind."""
    fall = [2.3 - 0.1 * i for i in range(1, 21)]
    suggestion = suggest_rates(made(*[2.3] * 20, *fall, *[0.3 + 0.4 * i for i in range(1, 8)]))
    assert suggestion is not None
    assert suggestion.lowest == pytest.approx(10 ** ((39 - 9) / 10 - 5))
    low, best, high = suggestion.rates
    assert best == pytest.approx(suggestion.lowest / 1.5) and low < best < high <= 2 * suggestion.lowest


@pytest.mark.parametrize(
    "losses",
    [[2.3] * 50, [2.3 + 0.1 * i for i in range(50)], [2.3, 2.0], [2.4, 1.7, *[2.3] * 28]],
    ids=["flat", "rising", "short", "one easy batch"],
)
def test_without_a_clear_fall_nothing_is_suggested(losses: list[float]) -> None:
    assert suggest_rates(made(*losses)) is None


def test_the_command_suggests_rates_that_learn(tmp_path: Path) -> None:
    done = run_script("find_lr", "steps=300", "device=cpu", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rate = re.search(r"try      python scripts/run.py device=cpu optimizer.lr=(\S+)", done.stdout)
    assert rate and 0.03 <= float(rate[1]) <= 0.1, "docs/defaults.md: these are best"
    sweep = re.search(r"a sweep  python scripts/run.py -m device=cpu optimizer.lr=(\S+),(\S+),(\S+)\n", done.stdout)
    assert sweep and float(sweep[1]) < float(sweep[2]) < float(sweep[3]) and sweep[2] == rate[1]
    (folder,) = (tmp_path / "outputs/lr_ranges").iterdir()
    assert {path.name for path in folder.iterdir()} == {"lr_range.csv", "lr_range.png"}
    with (folder / "lr_range.csv").open() as file:
        assert next(iter(csv.reader(file))) == ["lr", "loss", "smoothed_loss"]
    assert not (tmp_path / "outputs/mlflow.db").exists(), "it is no run"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("from_lr=20", "from_lr=20"),
        ("epochs=3", "epochs=3: has no effect here"),
        ("patience=3", "patience=3: has no effect here"),
        ("resume=true", "resume=true: has no effect here"),
        ("steps=0", "steps=0"),
        ("to_lr=-1", "to_lr=-1"),
        ("optimizer.lr=x", "optimizer.lr=x"),
    ],
)
def test_what_is_wrong_is_one_sentence(typed: Command, word: str, said: str) -> None:
    done = typed("find_lr", word)
    assert done.returncode and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1


def test_few_steps_of_small_batches_suggest_nothing_and_say_what_to_change(typed: Command) -> None:
    done = typed("find_lr", "steps=30", "batch_size=4", "device=cpu")
    assert done.returncode == 0 and "did not fall clearly: try more steps" in done.stdout
    assert "a sweep" not in done.stdout


def test_a_range_that_ends_too_early_is_said(typed: Command) -> None:
    done = typed("find_lr", "to_lr=0.01", "device=cpu")
    assert done.returncode == 0 and "The loss does not rise up to to_lr=0.01: give a higher one." in done.stdout
