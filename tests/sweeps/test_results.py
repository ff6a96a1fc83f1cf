"""What a set of runs shows: groups, intervals, the table; and a sweep that cannot show it says so."""

import errno
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers import InProcess, composed
from lenetexp.config.identity import swept_name
from lenetexp.config.schema import RunConfig, check
from lenetexp.errors import UserError
from lenetexp.runs.interrupt import Interrupted
from lenetexp.sweeps.compare import differing_keys
from lenetexp.sweeps.results import Group, Row, groups_of, results_csv, results_table
from lenetexp.sweeps.sweep import Sweep, recorded
from lenetexp.tracking.query import find_sweep
from lenetexp.tracking.store import open_store


def rows(*accuracies: float) -> tuple[Row, ...]:
    return tuple(Row({"seed": str(i)}, "finished", val_accuracy=a) for i, a in enumerate(accuracies))


def test_an_interval_over_seeds_is_students() -> None:
    """Three values: mean 0.92, deviation 0.02; t for 97.5 % and two degrees of freedom is 4.303."""
    group = Group({}, rows(0.90, 0.92, 0.94))
    assert group.mean == pytest.approx(0.92)
    assert group.deviation == pytest.approx(0.02)
    assert group.half_width == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)


def test_a_mean_counts_each_seed_once_and_only_results() -> None:
    twice = Row({"seed": "0"}, "finished", val_accuracy=0.90)
    killed = Row({"seed": "3"}, "killed", val_accuracy=0.10)
    group = Group({}, (*rows(0.90, 0.92, 0.94), twice, killed))
    assert sorted(group.accuracies) == [0.90, 0.92, 0.94]


def test_equal_accuracies_are_ranked_by_loss() -> None:
    pairs = (("x", 0.2), ("y", 0.1))
    groups = groups_of([Row({"a": a}, "finished", val_accuracy=0.9, val_loss=loss) for a, loss in pairs])
    assert [group.swept for group in groups] == [{"a": "y"}, {"a": "x"}]


def test_a_table_has_a_line_for_each_run_or_with_seeds_for_each_recipe() -> None:
    of = [
        Row({"lr": "0.1", "seed": "0"}, "finished", val_accuracy=0.9, best_epoch=3, test_accuracy=0.8, seconds=1.25),
        Row({"lr": "0.1", "seed": "1"}, "finished", val_accuracy=0.8, best_epoch=2, test_accuracy=0.7, seconds=1.0),
        Row({"lr": "9", "seed": "0"}, "failed", "OSError: no room"),
    ]
    head, best, _, failed = (line.split() for line in results_table(of, ["lr"]).splitlines())
    assert head == ["lr", "validation", "epoch", "test", "seconds", "status"]
    assert best == ["0.1", "90.00%", "3", "80.00%", "1.2", "finished"]
    assert failed == ["9", "failed:", "OSError:", "no", "room"]
    head, mean, none, failed = (line.split() for line in results_table(of, ["lr", "seed"]).splitlines())
    assert head[:4] == ["lr", "runs", "validation", "deviation"]
    assert mean == ["0.1", "2", "of", "2", "85.00%", "7.07%", "21.47%", "to", "100.00%", "75.00%"]
    assert none == ["9", "0", "of", "1", "1", "failed"] and failed == ["lr=9", "seed=0:", "OSError:", "no", "room"]
    lines = results_csv(of, ["lr", "seed"]).splitlines()
    assert lines[0] == "lr,seed,best_val_accuracy,best_epoch,test_accuracy,seconds,status,reason,run_id"
    assert lines[3] == "9,0,,,,,failed,OSError: no room,"


def test_runs_are_compared_by_what_differs_and_not_by_what_follows_from_it() -> None:
    sgd = {"optimizer._target_": "torch.optim.SGD", "optimizer.lr": "0.1", "optimizer.momentum": "0.9"}
    adam = {"optimizer._target_": "torch.optim.Adam", "optimizer.lr": "0.1", "optimizer.eps": "1e-8"}
    runs = [
        {**sgd, "scheduler.epochs": "5", "epochs": "5", "tracking.uri": "a"},
        {**adam, "epochs": "9", "scheduler.epochs": "9", "tracking.uri": "b"},
        {**adam, "scheduler.epochs": "5", "epochs": "5", "tracking.uri": "b"},
    ]
    assert differing_keys(runs) == ["optimizer._target_", "epochs"]


def test_names_are_short_if_nothing_is_lost() -> None:
    assert swept_name({"optimizer.lr": "0.1", "model.activation": "relu"}) == "lr=0.1 activation=relu"
    assert swept_name({"a.lr": "1", "b.lr": "2"}) == "a.lr=1 b.lr=2"
    assert swept_name({"optimizer.lr": "0.011986907993324093"}) == "lr=0.01199"


@pytest.fixture
def plan() -> Any:
    """Of a sweep over seeds."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": ""}}})
    return SimpleNamespace(names=["seed"], identity=lambda: "1234", sweeper=SimpleNamespace(config=config))


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
