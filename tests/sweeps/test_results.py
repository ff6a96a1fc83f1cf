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
from lenetexp.config.identity import RESULT_NAMES, format_swept, is_part_of_experiment, shorten_keys
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.errors import UserError
from lenetexp.reporting.report_page import Cell
from lenetexp.reporting.report_parts import build_means_table, build_runs_table
from lenetexp.runs.interrupt import Interruption
from lenetexp.sweeps.results import COLUMNS, RECIPE, group_recipes, sort_best_first
from lenetexp.sweeps.summary import build_results_table, show_results
from lenetexp.sweeps.sweep import Sweep, record_sweep
from lenetexp.tracking.selection import find_sweep
from lenetexp.tracking.store import open_store


def run(status: str = "finished", accuracy: float = nan, **more: Any) -> dict[str, Any]:
    """What is known of a run."""
    return {"status": status, "reason": "", "best_val_accuracy": accuracy, "before": False, **more}


def over_seeds(*accuracies: float) -> list[dict[str, Any]]:
    return [run(accuracy=accuracy, seed=str(seed)) for seed, accuracy in enumerate(accuracies)]


def test_an_interval_over_seeds_is_students() -> None:
    """Three values: mean 0.92, deviation 0.02; t for 97.5 % and two degrees of freedom is 4.303."""
    (recipe,) = group_recipes(sort_best_first(over_seeds(0.90, 0.92, 0.94), ["seed"]), ["seed"]).itertuples()
    assert recipe.accuracy == pytest.approx(0.92)
    assert recipe.deviation == pytest.approx(0.02)
    assert recipe.half_width == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)


def test_a_mean_counts_each_seed_once_and_only_results() -> None:
    others = [run(accuracy=0.80, seed="0"), run("killed", 0.10, seed="3"), run("finished", nan, seed="4")]
    runs = sort_best_first([*others, *over_seeds(0.90, 0.92, 0.94)], ["seed"])
    recipes = group_recipes(runs, ["seed"])
    (recipe,) = recipes.itertuples()
    assert (recipe.runs, recipe.ends) == ("3 of 6", "1 interrupted")
    assert recipe.accuracy == pytest.approx(0.92), "of a seed that ran twice the better run"
    said = " ".join(build_results_table(runs, recipes, ["seed"]).split())
    assert "1 run repeats another with the same settings and seed: of each, only the best counts" in said
    assert "repeats" not in build_results_table(runs[1:], recipes, []), "without means nothing is"


def test_a_table_of_eight_settings_fits_120_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    long = {
        "optimizer._target_": "RMSprop", "optimizer.lr": "0.001", "optimizer.weight_decay": "0.0005",
        "model.activation": "leaky_relu", "model.pooling": "max", "scheduler._target_": "OneCycleLR",
        "batch_size": "128", "epochs": "100",
    }  # fmt: skip
    diverged = run("diverged", reason="the loss stopped being finite in epoch 4", **long)
    found = sort_best_first(
        [run(accuracy=0.9, test_accuracy=0.9, best_epoch=3, seconds=9.5, **long), diverged], [*long]
    )
    head, *lines = build_results_table(found, group_recipes(found, [*long]), [*long]).splitlines()
    names = "optimizer lr weight_decay activation pooling scheduler batch_size epochs"
    assert head.split()[:8] == names.split() and head.split()[-1] == "status"
    assert max(map(len, [head, *lines])) <= 120
    assert lines[2].startswith("optimizer=RMSprop lr=0.001") and "".join(lines[2:]).endswith("finite in epoch 4")


@pytest.mark.parametrize(("keys", "rows"), [(["seed"], 1), (["lr"], 3)])
def test_what_was_interrupted_or_not_started_is_one_line(
    keys: list[str], rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = [run(accuracy=0.9, run_id="x", trust=""), run("killed"), run("killed", reason="its process was gone")]
    found = [{**run, **dict.fromkeys(keys, str(i))} for i, run in enumerate([*ended, *[run("not run")] * 14])]
    show_results(sort_best_first(found, keys), keys, tmp_path, None)
    text = (tmp_path / "table.txt").read_text()
    assert len(text.splitlines()) == 1 + rows + 2, "a head, rows, two notes"
    assert text.count("14 runs not started") == 1 and f"{keys[0]}=2: its process was gone\n" in text
    assert "interrupted" in text
    said = " ".join(capsys.readouterr().out.split())
    assert "runs 1 finished, 1 interrupted, 1 killed, 14 not started" in said
    assert sum(",killed," in line for line in (tmp_path / "table.csv").read_text().splitlines()) == 2


def test_equal_accuracies_are_ranked_by_loss() -> None:
    runs = [run(accuracy=0.9, best_val_loss=loss, a=a) for a, loss in (("x", 0.2), ("y", 0.1), ("z", nan))]
    ranked = sort_best_first([run("failed", a="w"), *runs], ["a"])
    assert [*ranked.a] == [*group_recipes(ranked, ["a"]).a] == ["y", "x", "z", "w"]


def test_a_table_has_a_line_for_each_run_or_with_seeds_for_each_recipe(tmp_path: Path) -> None:
    found = [
        run(accuracy=0.9, lr="0.1", seed="0", best_epoch=3, test_accuracy=0.8, seconds=1.25, before=False),
        run(accuracy=0.8, lr="0.1", seed="1", best_epoch=2, test_accuracy=0.7, seconds=1.0, before=True),
        run("failed", lr="9", seed="0", reason="OSError: no room", before=False),
    ]

    def shown(*keys: str) -> list[list[str]]:
        runs = sort_best_first(found, keys)
        return [line.split() for line in build_results_table(runs, group_recipes(runs, keys), keys).splitlines()]

    head, best, second, failed, reason = shown("lr")
    assert head == ["lr", "validation", "epoch", "test", "seconds", "status"]
    assert best == ["0.1", "90.00%", "3", "80.00%", "1.2", "finished"] and second[-1] == "(before)"
    assert failed == ["9", "failed"] and reason == ["lr=9:", "OSError:", "no", "room"]
    head, mean, none, failed = shown("lr", "seed")
    assert head[:4] == ["lr", "runs", "validation", "deviation"]
    assert mean == ["0.1", "2", "of", "2", "85.00%", "7.07%", "21.47%", "to", "100.00%", "75.00%"]
    assert none == ["9", "0", "of", "1", "1", "failed"] and failed == ["lr=9", "seed=0:", "OSError:", "no", "room"]
    show_results(sort_best_first(found, ["lr", "seed"]), ["lr", "seed"], tmp_path, None)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    head = "lr,seed,best_val_accuracy,best_epoch,epochs_to_90,test_accuracy,test_low,test_high,seconds"
    assert lines[0] == f"{head},status,reason,run_id,folder,images"
    assert lines[3] == "9,0,,,,,,,,failed,OSError: no room,,,"


@pytest.mark.parametrize("keys", [["seed"], ["lr"], ["lr", "seed"], []])
def test_a_sweep_without_runs_has_an_empty_table(
    keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_results(sort_best_first([], keys), keys, tmp_path, None)
    assert "  runs  none" in capsys.readouterr().out
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1


def test_runs_that_do_not_differ_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_results(sort_best_first([run(accuracy=0.5, run_id="x", trust="")] * 2, []), [], tmp_path, None)
    assert "  best run  validation 50.00%\n" in capsys.readouterr().out


@pytest.mark.parametrize("seeds", ["0", "01"])
def test_no_setting_shares_a_column_with_a_result(seeds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name: dataset.validation beside the validation accuracy, `loss` beside the mean loss."""
    monkeypatch.setenv("COLUMNS", "999")
    keys = ["loss", *(f"model.{name}" for name in RESULT_NAMES), "seed"]
    values = {key: f"{key}'s" for key in keys}
    runs = [run(accuracy=0.5, test_accuracy=0.5, **{**values, "seed": seed}) for seed in seeds]
    table = sort_best_first(runs, keys)
    recipes = group_recipes(table, keys)
    text = build_results_table(table, recipes, keys)
    head, line = text.splitlines()[:2]
    for key in keys[:-1]:
        assert f"{key}'s" in line and head.split().count(key) == 1
    reports = [build_runs_table(table, keys, [Cell("finished")] * len(table)), build_means_table(recipes, keys[:-1])]
    for columns in ([*table], [*recipes], *(report.columns for report in reports)):
        assert len({*columns}) == len(columns)
    words = {*head.split()} | {name for report in reports for name in report.columns if name.isalpha()}
    assert words & {"validation", "status", "ended", "run"} and words - {*keys} - {"seed"} <= {
        *RESULT_NAMES,
        "to",
        "90",
        "%",
        "95",
        "interval",
        "other",
        "outcomes",
    }
    assert not {*COLUMNS, *RECIPE} & {key for key in RunConfig.model_fields if is_part_of_experiment(key)}


def test_a_table_leaves_settings_out_rather_than_wrap_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    keys = [f"model.a_setting_of_many_letters_{i}" for i in range(4)]
    runs = [run(accuracy=0.5 + i / 10, **{key: str(i * (j == 2) + 7) for j, key in enumerate(keys)}) for i in range(3)]
    table = sort_best_first(runs, keys)
    text = build_results_table(table, group_recipes(table, keys), keys)
    assert max(map(len, text.splitlines())) <= 80
    assert "a_setting_of_many_letters_2" in text.splitlines()[0], "what differs most stays"
    others = "a_setting_of_many_letters_0, a_setting_of_many_letters_1, a_setting_of_many_letters_3"
    assert f"without {others}, which differ too: see table.csv" in " ".join(text.split())


@pytest.mark.parametrize(("statuses", "is_there"), [([], False), (["killed", "not run"], True)])
def test_a_column_of_other_outcomes_is_there_if_there_are_any(
    statuses: list[str], is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    keys = ["lr", "activation", "seed"]
    setting = {"lr": "0.001", "activation": "sigmoid"}
    runs = [run(accuracy=0.9 + i / 100, test_accuracy=0.9, seed=str(i), **setting) for i in range(3)]
    table = sort_best_first([*runs, *(run(status, seed=status, **setting) for status in statuses)], keys)
    lines = build_results_table(table, group_recipes(table, keys), keys).splitlines()
    assert lines[0].endswith("other outcomes") == is_there and max(map(len, lines)) <= 80


def test_names_are_short_if_nothing_is_lost() -> None:
    assert format_swept({"optimizer.lr": "0.1", "model.activation": "relu"}) == "lr=0.1 activation=relu"
    assert format_swept({"a.lr": "1", "b.lr": "2", "a.c": "3"}) == "a.lr=1 b.lr=2 c=3"
    assert shorten_keys(["optimizer._target_", "epochs", "dataset.name", "model.a", "scheduler.a"]) == [
        "optimizer", "epochs", "dataset", "model.a", "scheduler.a",
    ]  # fmt: skip
    assert format_swept({"optimizer.lr": "0.011986907993324093"}) == "lr=0.01199"


@pytest.fixture
def plan() -> Any:
    """Of a sweep over seeds."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": ""}}})
    return SimpleNamespace(names=["seed"], kind="grid", identity=lambda: "1234", sweeper=SimpleNamespace(config=config))


def settings_of(here: InProcess, *words: str) -> RunConfig:
    return check_config(RunConfig, composed("experiment=smoke", f"tracking.uri={here.uri}", *words))


@pytest.mark.parametrize("ended_by", [None, Interruption(signal.SIGINT), RuntimeError("a fault")])
def test_a_sweep_whose_results_cannot_be_shown_says_so_and_hides_nothing(
    here: InProcess,
    plan: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ended_by: BaseException | None,
) -> None:
    def full(self: Sweep, is_whole: bool) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Sweep, "has_begun", True)
    monkeypatch.setattr(Sweep, "show_results", full)
    settings = settings_of(here)
    expected = UserError if ended_by is None else type(ended_by)
    with pytest.raises(expected) as told, record_sweep(settings, here.cwd / "s", plan):
        if ended_by is not None:
            raise ended_by
    said = str(told.value) if ended_by is None else capsys.readouterr().out
    assert "No space left on device" in said and "resume=true shows the sweep's results later" in said
    status = find_sweep(open_store(settings.tracking), "latest").status
    assert status == ("KILLED" if isinstance(ended_by, Interruption) else "FAILED")


def test_a_sweep_that_is_running_is_not_resumed_by_another_command(here: InProcess, plan: Any) -> None:
    settings = settings_of(here, "resume=true")
    with record_sweep(settings, here.cwd / "s", plan) as first:
        with (
            pytest.raises(UserError, match=r"resume=true: this sweep is running in .*/s; end it first"),
            record_sweep(settings, here.cwd / "other", plan),
        ):
            pass
        assert [run.info.status for run in here.sweeps] == ["RUNNING"]
    with record_sweep(settings, here.cwd / "other", plan) as again:
        assert (again.recorder.run_id, again.folder) == (first.recorder.run_id, here.cwd / "s")
    assert plan.sweeper.config.hydra.sweep.dir == str(here.cwd / "s")
