"""What a set of runs shows: groups, intervals, the table; and a sweep that cannot show it says so."""

import errno
import signal
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers import InProcess, composed
from lenetexp.config.identity import short_keys, swept_name
from lenetexp.config.schema import RunConfig, check
from lenetexp.errors import UserError
from lenetexp.runs.interrupt import Interrupted
from lenetexp.sweeps.compare import differing_keys
from lenetexp.sweeps.results import best_first, recipes_of, results_table, show_results
from lenetexp.sweeps.sweep import Sweep, recorded
from lenetexp.tracking.query import find_sweep
from lenetexp.tracking.store import open_store


def run(status: str = "finished", accuracy: float = nan, **more: Any) -> dict[str, Any]:
    """What is known of a run."""
    return {"status": status, "reason": "", "best_val_accuracy": accuracy, "before": False, **more}


def over_seeds(*accuracies: float) -> list[dict[str, Any]]:
    return [run(accuracy=accuracy, seed=str(seed)) for seed, accuracy in enumerate(accuracies)]


def test_an_interval_over_seeds_is_students() -> None:
    """Three values: mean 0.92, deviation 0.02; t for 97.5 % and two degrees of freedom is 4.303."""
    (recipe,) = recipes_of(best_first(over_seeds(0.90, 0.92, 0.94), ["seed"]), ["seed"]).itertuples()
    assert recipe.accuracy == pytest.approx(0.92)
    assert recipe.deviation == pytest.approx(0.02)
    assert recipe.half_width == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)


def test_a_mean_counts_each_seed_once_and_only_results() -> None:
    others = [run(accuracy=0.80, seed="0"), run("killed", 0.10, seed="3"), run("finished", nan, seed="4")]
    runs = best_first([*others, *over_seeds(0.90, 0.92, 0.94)], ["seed"])
    recipes = recipes_of(runs, ["seed"])
    (recipe,) = recipes.itertuples()
    assert (recipe.runs, recipe.ends) == ("3 of 6", "1 killed")
    assert recipe.accuracy == pytest.approx(0.92), "of a seed that ran twice the better run"
    said = " ".join(results_table(runs, recipes, ["seed"]).split())
    assert "1 left out of the means: of runs that differ in nothing, seed included, the best counts" in said
    assert "left out" not in results_table(runs[1:], recipes, []), "without means nothing is"


def test_a_table_of_eight_settings_fits_120_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    long = {
        "optimizer._target_": "RMSprop", "optimizer.lr": "0.001", "optimizer.weight_decay": "0.0005",
        "model.activation": "leaky_relu", "model.pooling": "max", "scheduler._target_": "OneCycleLR",
        "batch_size": "128", "epochs": "100",
    }  # fmt: skip
    diverged = run("diverged", reason="the loss stopped being finite in epoch 4", **long)
    found = best_first([run(accuracy=0.9, test_accuracy=0.9, best_epoch=3, seconds=9.5, **long), diverged], [*long])
    head, *lines = results_table(found, recipes_of(found, [*long]), [*long]).splitlines()
    names = "optimizer lr weight_decay activation pooling scheduler batch_size epochs"
    assert head.split()[:8] == names.split() and head.split()[-1] == "status"
    assert max(map(len, [head, *lines])) <= 120
    assert lines[2].startswith("optimizer=RMSprop lr=0.001") and "".join(lines[2:]).endswith("finite in epoch 4")


def test_equal_accuracies_are_ranked_by_loss() -> None:
    runs = [run(accuracy=0.9, best_val_loss=loss, a=a) for a, loss in (("x", 0.2), ("y", 0.1), ("z", nan))]
    ranked = best_first([run("failed", a="w"), *runs], ["a"])
    assert [*ranked.a] == [*recipes_of(ranked, ["a"]).a] == ["y", "x", "z", "w"]


def test_a_table_has_a_line_for_each_run_or_with_seeds_for_each_recipe(tmp_path: Path) -> None:
    found = [
        run(accuracy=0.9, lr="0.1", seed="0", best_epoch=3, test_accuracy=0.8, seconds=1.25, before=False),
        run(accuracy=0.8, lr="0.1", seed="1", best_epoch=2, test_accuracy=0.7, seconds=1.0, before=True),
        run("failed", lr="9", seed="0", reason="OSError: no room", before=False),
    ]

    def shown(*keys: str) -> list[list[str]]:
        runs = best_first(found, keys)
        return [line.split() for line in results_table(runs, recipes_of(runs, keys), keys).splitlines()]

    head, best, second, failed, reason = shown("lr")
    assert head == ["lr", "validation", "epoch", "test", "seconds", "status"]
    assert best == ["0.1", "90.00%", "3", "80.00%", "1.2", "finished"] and second[-1] == "(before)"
    assert failed == ["9", "failed"] and reason == ["lr=9:", "OSError:", "no", "room"]
    head, mean, none, failed = shown("lr", "seed")
    assert head[:4] == ["lr", "runs", "validation", "deviation"]
    assert mean == ["0.1", "2", "of", "2", "85.00%", "7.07%", "21.47%", "to", "100.00%", "75.00%"]
    assert none == ["9", "0", "of", "1", "1", "failed"] and failed == ["lr=9", "seed=0:", "OSError:", "no", "room"]
    show_results(best_first(found, ["lr", "seed"]), ["lr", "seed"], tmp_path, None)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    head = "lr,seed,best_val_accuracy,best_epoch,epochs_to_90,test_accuracy,test_low,test_high,seconds"
    assert lines[0] == f"{head},status,reason,run_id"
    assert lines[3] == "9,0,,,,,,,,failed,OSError: no room,"


@pytest.mark.parametrize("keys", [["seed"], ["lr"], ["lr", "seed"], []])
def test_a_sweep_without_runs_has_an_empty_table(
    keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_results(best_first([], keys), keys, tmp_path, None)
    assert "  runs  none" in capsys.readouterr().out
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1


def test_runs_that_do_not_differ_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_results(best_first([run(accuracy=0.5, run_id="x", trust="")] * 2, []), [], tmp_path, None)
    assert "  best run  validation 50.00%\n" in capsys.readouterr().out


def test_runs_are_compared_by_what_differs_and_not_by_what_follows_from_it() -> None:
    sgd = {"optimizer._target_": "torch.optim.SGD", "optimizer.lr": "0.1", "optimizer.momentum": "0.9"}
    adam = {"optimizer._target_": "torch.optim.Adam", "optimizer.lr": "0.1", "optimizer.eps": "1e-8"}
    runs = [
        {**sgd, "scheduler.epochs": "5", "epochs": "5", "tracking.uri": "a"},
        {**adam, "epochs": "9", "scheduler.epochs": "9", "tracking.uri": "b"},
        {**adam, "scheduler.epochs": "5", "epochs": "5", "tracking.uri": "b"},
    ]
    assert differing_keys(runs) == ["optimizer._target_", "epochs"]
    assert short_keys(["optimizer._target_", "epochs", "dataset.name", "model.a", "scheduler.a"]) == [
        "optimizer", "epochs", "dataset", "model.a", "scheduler.a",
    ]  # fmt: skip


def test_names_are_short_if_nothing_is_lost() -> None:
    assert swept_name({"optimizer.lr": "0.1", "model.activation": "relu"}) == "lr=0.1 activation=relu"
    assert swept_name({"a.lr": "1", "b.lr": "2", "a.c": "3"}) == "a.lr=1 b.lr=2 c=3"
    assert swept_name({"optimizer.lr": "0.011986907993324093"}) == "lr=0.01199"


@pytest.fixture
def plan() -> Any:
    """Of a sweep over seeds."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": ""}}})
    return SimpleNamespace(names=["seed"], kind="grid", identity=lambda: "1234", sweeper=SimpleNamespace(config=config))


def settings_of(here: InProcess, *words: str) -> RunConfig:
    return check(RunConfig, composed("experiment=smoke", f"tracking.uri={here.uri}", *words))


@pytest.mark.parametrize("ended_by", [None, Interrupted(signal.SIGINT), RuntimeError("a fault")])
def test_a_sweep_whose_results_cannot_be_shown_says_so_and_hides_nothing(
    here: InProcess,
    plan: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ended_by: BaseException | None,
) -> None:
    def full(self: Sweep) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Sweep, "results", full)
    settings = settings_of(here)
    expected = UserError if ended_by is None else type(ended_by)
    with pytest.raises(expected) as told, recorded(settings, here.cwd / "s", plan):
        if ended_by is not None:
            raise ended_by
    said = str(told.value) if ended_by is None else capsys.readouterr().out
    assert "No space left on device" in said and "resume=true shows the sweep's results later" in said
    status = find_sweep(open_store(settings.tracking), "latest").status
    assert status == ("KILLED" if isinstance(ended_by, Interrupted) else "FAILED")


def test_a_sweep_that_is_running_is_not_resumed_by_another_command(here: InProcess, plan: Any) -> None:
    settings = settings_of(here, "resume=true")
    with recorded(settings, here.cwd / "s", plan) as first:
        with (
            pytest.raises(UserError, match=r"resume=true: this sweep is running in .*/s; end it first"),
            recorded(settings, here.cwd / "other", plan),
        ):
            pass
        assert [run.info.status for run in here.sweeps] == ["RUNNING"]
    with recorded(settings, here.cwd / "other", plan) as again:
        assert (again.recorder.run_id, again.folder) == (first.recorder.run_id, here.cwd / "s")
    assert plan.sweeper.config.hydra.sweep.dir == str(here.cwd / "s")
