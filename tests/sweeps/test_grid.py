"""Sweeps through the command line: others go on, the answer names what failed, resume runs only that."""

import errno
import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from conftest import Started, run_script
from hydra_plugins.lenetexp_sweep import _search, _workers
from hydra_plugins.lenetexp_sweep.launcher import LocalLauncher
from lenetexp import figures, journal, sweep, tracking
from lenetexp.answer import Group, Row, _differing, groups_of
from lenetexp.config import RunConfig, Tracking, UserError, check, swept_name
from lenetexp.interrupt import Interrupted, noted
from test_config import composed

# A net of one's own that does after some training what its setting says.
MINE = """
import os, signal
import torch
from lenetexp.models import LeNet

class Net(LeNet):
    def __init__(self, how, **settings):
        super().__init__(**settings)
        self.how = how
        self.register_buffer("steps", torch.zeros(()))  # in the checkpoint: it happens in the second epoch

    def forward(self, x):
        self.steps += self.training
        if self.steps > 60 and self.how == "raise":
            raise RuntimeError("a fault\\nof two lines")
        if self.steps > 60 and self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x) * (float("inf") if self.steps > 60 and self.how == "diverge" else 1)
"""
SWEEP = [
    "-m",
    "experiment=smoke",
    "model._target_=mine.Net",
    "+model.how=ok,raise,diverge,kill",
    "optimizer.lr=1e-3,2e-3",
]


@dataclass
class Store:
    """What a sweep left in MLflow."""

    cwd: Path

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.cwd}/outputs/mlflow.db")

    @property
    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name("lenetexp")
        return list(self.client.search_runs([experiment.experiment_id]))

    @property
    def parents(self) -> list[Run]:
        return [run for run in self.runs if "lenetexp.sweep" in run.data.tags]

    @property
    def children(self) -> list[Run]:
        return [run for run in self.runs if "mlflow.parentRunId" in run.data.tags]

    def epochs(self, run: Run) -> list[int]:
        return [metric.step for metric in self.client.get_metric_history(run.info.run_id, "val/loss")]


@dataclass
class Swept(Store):
    """A sweep that ran, and what it printed."""

    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Eight runs, of which two raise, two diverge and two kill their process."""
    cwd = tmp_path_factory.mktemp("sweep")
    (cwd / "mine.py").write_text(MINE)
    return Swept(cwd, run_script("run", *SWEEP, cwd=cwd, timeout=300))


@pytest.fixture(scope="module")
def states(first: Swept) -> list[tuple[str, str]]:
    """Each run's setting and status, after the first command."""
    return sorted((run.data.tags["swept.model.how"], run.info.status) for run in first.children)


@pytest.fixture(scope="module")
def again(first: Swept, states: list[tuple[str, str]]) -> Swept:
    """The same command with resume=true."""
    return Swept(first.cwd, run_script("run", *SWEEP, "resume=true", cwd=first.cwd, timeout=300))


def test_a_run_that_fails_takes_no_other_along(first: Swept, states: list[tuple[str, str]]) -> None:
    assert states == [
        *[("diverge", "FINISHED")] * 2,
        *[("kill", "KILLED")] * 2,
        *[("ok", "FINISHED")] * 2,
        *[("raise", "FAILED")] * 2,
    ]
    assert first.done.returncode == 1
    assert first.done.stderr.strip() == "error: 4 of 8 runs failed; resume=true runs only those again"


def test_the_table_says_what_became_of_every_run(first: Swept) -> None:
    (table,) = first.cwd.glob("outputs/sweeps/*/table.txt")
    text = table.read_text()
    assert text in first.done.stdout
    assert text.count("failed: RuntimeError: a fault of two lines") == 2
    assert text.count("killed: its process died") == 2
    assert text.count("diverged: the loss stopped being finite in epoch") == 2
    assert "1 sweep" not in text and len(table.with_suffix(".csv").read_text().splitlines()) == 9
    assert "2 diverged, 2 failed, 2 finished, 2 killed" in first.done.stdout


def test_the_record_nests_the_runs_below_their_sweep(first: Swept, states: list[tuple[str, str]]) -> None:
    (parent,) = first.parents
    assert {run.data.tags["mlflow.parentRunId"] for run in first.children} == {parent.info.run_id}
    for run in first.children:
        assert run.data.params["optimizer.lr"] == str(float(run.data.tags["swept.optimizer.lr"]))
        how, lr = run.data.params["model.how"], run.data.tags["swept.optimizer.lr"]
        assert run.info.run_name == f"how={how} lr={lr}"
    held = {entry.path for entry in first.client.list_artifacts(parent.info.run_id)}
    assert held == {"sweep.json", "table.txt", "table.csv", "figures"}
    drawn = {entry.path for entry in first.client.list_artifacts(parent.info.run_id, "figures")}
    assert drawn == {f"figures/{name}.png" for name in ("accuracy", "heat_map", "learning_curves")}
    assert not any(run.info.status == "RUNNING" for run in first.runs)


def test_each_run_has_a_log_of_its_own(first: Swept) -> None:
    logs = {path.parent.name: path.read_text() for path in first.cwd.glob("outputs/sweeps/*/*/log.txt")}
    assert len([log for log in logs.values() if "Traceback" in log and "a fault" in log]) >= 2
    assert all("61,706 parameters" in log for log in logs.values())
    assert "Traceback" not in first.done.stdout + first.done.stderr


def test_resume_runs_only_what_is_not_finished(again: Swept) -> None:
    assert "4 of 8 runs are finished already and are not run again" in again.done.stdout
    count = {how: 0 for how in ("ok", "diverge", "raise", "kill")}
    for run in again.children:
        count[run.data.tags["swept.model.how"]] += 1
        assert again.epochs(run) == [1, 2] if run.data.tags["swept.model.how"] == "ok" else [1]
    assert count == {"ok": 2, "diverge": 2, "raise": 2, "kill": 2}, "in the same runs as before"
    (folder,) = again.cwd.glob("outputs/sweeps/*")
    logs = [path.read_text().count("goes on  after epoch 1 of run") for path in folder.glob("*/log.txt")]
    assert sorted(logs) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(again.parents) == 1, "the sweep is gone on with, not begun anew"
    assert not any(run.info.status == "RUNNING" for run in again.runs)


def test_compare_gives_the_same_table_from_mlflow_alone(again: Swept) -> None:
    (parent,) = again.parents
    by_id = run_script("compare", f"sweep={parent.info.run_id}", cwd=again.cwd)
    compared = run_script("compare", "sweep=latest", cwd=again.cwd)
    assert (compared.returncode, by_id.returncode) == (0, 0), compared.stderr + by_id.stderr
    unknown = run_script("compare", "sweep=4d1f", cwd=again.cwd)
    assert unknown.returncode == 1 and "sweep=4d1f: there is no such sweep" in unknown.stderr
    table = sorted(again.cwd.glob("outputs/sweeps/*/table.txt"))[-1].read_text()
    assert table.count("\n") == 9 and table in compared.stdout
    some = run_script("compare", "runs='tags.`swept.model.how` = \"ok\"'", cwd=again.cwd)
    assert "2 finished" in some.stdout and "optimizer.lr" in some.stdout and "raise" not in some.stdout


@pytest.mark.slow
def test_a_changed_space_or_setting_is_not_mixed_with_the_old(tmp_path: Path) -> None:
    """What resume=true goes on with has the same settings, and a search the same choices."""
    search = ["-m", "hydra/sweeper=optuna", "experiment=smoke", "epochs=1", "hydra.sweeper.n_trials=1"]
    assert run_script("run", *search, "model.activation=relu,tanh", cwd=tmp_path).returncode == 0
    wider = run_script("run", *search, "model.activation=relu,tanh,elu", "resume=true", cwd=tmp_path)
    assert wider.returncode == 1
    assert "model.activation was searched over relu, tanh before" in wider.stderr.splitlines()[-1]
    again = run_script("run", *search, "model.activation=relu,tanh", "resume=true", cwd=tmp_path)
    assert again.returncode == 0 and "1 of 1 trials are done already" in again.stdout
    grid = ["-m", "experiment=smoke", "epochs=1", "model.activation=relu,relu"]
    once = run_script("run", *grid, "resume=true", cwd=tmp_path)
    assert once.returncode == 0 and "1 of 2 combinations repeat others" in once.stdout
    other = run_script("run", *grid, "device.precision=bf16", "resume=true", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert len(Store(tmp_path).parents) == 3, "the search, the grid, and the grid with another setting"


@pytest.mark.slow
def test_prediction_takes_a_run_and_never_the_sweep_itself(again: Swept) -> None:
    done = run_script("predict", "run=latest", "trust=[mine]", "count=3", cwd=again.cwd)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predicted:") == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer.lr=0.1,-1"], "optimizer.lr=-1: must be a number above 0"),
        (["optimizer=sgd,adamm"], "optimizer=adamm: must be one of"),
        (["optimizer.lr=interval(0,1)"], "optimizer.lr=interval(0,1): must list its values"),
        (["sweep=lrr"], "sweep=lrr: must be one of"),
        (["sweep=lr,seeds"], "sweep=lr,seeds: must have one value in a sweep"),
        (["seed=1,2", "hydra.launcher.n_jobs=-1"], "hydra.launcher.n_jobs=-1: must be a whole number"),
        (["optimizer=glob(zzz*)"], "optimizer=glob(zzz*): must give a value"),
        ([], "-m: must be given values"),
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: must be given a space"),
        (
            [
                "hydra/sweeper=optuna",
                "hydra.sweeper.n_trials=abc",
                "tracking.uri=choice(http://a,http://b)",
            ],
            "hydra.sweeper.n_trials=abc: must be a whole number",
        ),
        (
            ["hydra/sweeper=optuna", "optimizer.lr=interval(-1,1)"],
            "optimizer.lr=-1.0: must be a number above 0",
        ),
    ],
)
def test_every_config_is_judged_before_the_first_run(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = run_script("run", "-m", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {said}") and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


SEARCH = [
    "-m",
    "hydra/sweeper=optuna",
    "experiment=smoke",
    "epochs=1",
    "optimizer.lr=tag(log,interval(1e-4,1e-2))",
]


def trials(cwd: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{cwd}/outputs/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


@pytest.mark.slow
def test_a_search_tells_optuna_what_mlflow_holds(tmp_path: Path) -> None:
    done = run_script("run", *SEARCH, "hydra.sweeper.n_trials=3", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    values = {run.data.metrics["best/val_accuracy"] for run in Store(tmp_path).children}
    assert {trial.value for trial in found} == values


# What needs no process of its own.


def parsed(text: str) -> Any:
    return OverridesParser.create().parse_override(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=relu,tanh", CategoricalDistribution(["relu", "tanh"])),
        ("a=choice(1,2)", CategoricalDistribution(["1", "2"])),
        ("a=range(5,30,5)", IntDistribution(5, 25, step=5)),
        ("a=int(interval(1,4))", IntDistribution(1, 4)),
        ("a=interval(0.5,2)", FloatDistribution(0.5, 2.0)),
        ("a=tag(log,interval(1e-4,1.0))", FloatDistribution(1e-4, 1.0, log=True)),
    ],
)
def test_hydras_sweep_syntax_is_a_search_space(text: str, expected: object) -> None:
    assert _search.distribution(parsed(text)) == expected


def rows(*accuracies: float) -> tuple[Row, ...]:
    return tuple(Row({"seed": str(i)}, "finished", val_accuracy=a) for i, a in enumerate(accuracies))


def test_an_interval_over_seeds_is_students() -> None:
    """Three values: mean 0.92, deviation 0.02; t for 97.5 % and two degrees of freedom is 4.303."""
    group = Group({}, rows(0.90, 0.92, 0.94))
    assert group.mean == pytest.approx(0.92)
    assert group.deviation == pytest.approx(0.02)
    assert group.half_width == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)


def test_a_mean_counts_each_seed_once_and_only_runs_that_came_to_an_end() -> None:
    twice = Row({"seed": "0"}, "finished", val_accuracy=0.90)
    killed = Row({"seed": "3"}, "killed", val_accuracy=0.10)
    group = Group({}, (*rows(0.90, 0.92, 0.94), twice, killed))
    assert sorted(group.accuracies) == [0.90, 0.92, 0.94]


def test_equal_accuracies_are_ranked_by_loss() -> None:
    of = [
        Row({"a": a}, "finished", val_accuracy=0.9, val_loss=loss) for a, loss in (("x", 0.2), ("y", 0.1))
    ]
    assert [group.name for group in groups_of(of)] == ["a=y", "a=x"]


def test_runs_are_compared_by_what_differs_and_not_by_what_follows_from_it() -> None:
    sgd = {"optimizer._target_": "torch.optim.SGD", "optimizer.lr": "0.1", "optimizer.momentum": "0.9"}
    adam = {"optimizer._target_": "torch.optim.Adam", "optimizer.lr": "0.1", "optimizer.eps": "1e-8"}
    runs = [
        {**sgd, "scheduler.epochs": "5", "epochs": "5", "tracking.uri": "a"},
        {**adam, "epochs": "9", "scheduler.epochs": "9", "tracking.uri": "b"},
        {**adam, "scheduler.epochs": "5", "epochs": "5", "tracking.uri": "b"},
    ]
    assert _differing(runs) == ["optimizer._target_", "epochs"]


def test_the_time_between_the_commands_of_a_run_is_not_its_own() -> None:
    times = [("start", 0), ("created", 10), ("epoch", 2000), ("resumed", 90_000), ("epoch", 91_000)]
    events = [{"event": event, "time": time} for event, time in [*times, ("sent", 999_000)]]
    assert journal.seconds_worked(events) == 3.0


def test_a_torn_last_line_of_a_journal_is_not_read(tmp_path: Path) -> None:
    book = journal.Journal(tmp_path)
    book.write("start", epochs=2, tags={})
    book.write("epoch", epoch=1)
    with book.path.open("a") as file:
        file.write('{"event": "epo')
    assert [event["event"] for event in journal.read(book.path)] == ["start", "epoch"]
    assert journal.read(tmp_path / "none") == []


def places(
    monkeypatch: pytest.MonkeyPatch, gpus: str, n_jobs: int | None, device: str = "auto"
) -> list[Any]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(_workers, "cpu_count", lambda: 8)
    launcher = LocalLauncher(n_jobs=n_jobs, per_gpu=2)
    launcher.config = OmegaConf.create({"device": {"name": device}})
    return _workers._places(launcher)


def test_runs_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    one_a_core = places(monkeypatch, gpus="", n_jobs=None)
    assert [place["OMP_NUM_THREADS"] for place in one_a_core] == ["1"] * 8
    assert [place["OMP_NUM_THREADS"] for place in places(monkeypatch, gpus="", n_jobs=2)] == ["4"] * 2
    spread = places(monkeypatch, gpus="3,5", n_jobs=None)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in spread] == ["3", "5", "3", "5"]
    assert len(places(monkeypatch, gpus="3,5", n_jobs=None, device="cpu")) == 8


def test_names_are_short_where_nothing_is_lost() -> None:
    assert swept_name({"optimizer.lr": "0.1", "model.activation": "relu"}) == "lr=0.1 activation=relu"
    assert swept_name({"a.lr": "1", "b.lr": "2"}) == "a.lr=1 b.lr=2"
    assert swept_name({"optimizer.lr": "0.011986907993324093"}) == "lr=0.01199"


def test_pictures_of_a_sweep_carry_its_keys(tmp_path: Path) -> None:
    keys = ["optimizer.lr", "model.activation"]
    best = {"relu": 0.5, "tanh": 0.9}
    grid = [
        figures.Point({keys[0]: lr, keys[1]: a}, best[a], diverged=a == "relu")
        for lr in ("0.1", "0.01")
        for a in ("relu", "tanh")
    ]
    drawn = figures.accuracy_against(keys, grid, "t")
    assert [axes.get_xlabel() for axes in drawn.axes] == keys
    assert [axes.get_xscale() for axes in drawn.axes] == ["log", "linear"]
    words = [label.get_text() for label in drawn.axes[1].get_xticklabels()]
    assert words == ["tanh", "relu"], "the best first"
    legend = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert legend == ["tanh", "relu", "diverged"]
    heat = figures.heat_map(keys, grid, "t")
    assert [label.get_text() for label in heat.axes[0].get_yticklabels()] == ["0.01", "0.1"]
    assert [text.get_text() for text in heat.axes[0].texts] == ["90.0%", "50.0%\ndiverged"] * 2
    curves = figures.sweep_curves([(f"run {i}", [[(1, 0.1), (2, 0.2)]]) for i in range(40)], "t")
    assert "best 12 of 40" in curves.axes[0].get_legend().get_title().get_text()
    figures.save({"a": drawn, "b": heat, "c": curves}, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_pictures_take_any_names(tmp_path: Path) -> None:
    """Long paths, and what matplotlib would read as a formula."""
    names = [f"/{'a_long_folder/' * 20}{i}" for i in range(3)] + ["$\\a$", "$"]
    keys = ["dataset.root", "model.$how"]
    grid = [figures.Point({keys[0]: a, keys[1]: b}, 0.5) for a in names for b in names]
    counts = np.eye(len(names), dtype=np.int64)
    drawn = {
        "accuracy": figures.accuracy_against(keys, grid, "$\\a$"),
        "heat_map": figures.heat_map(keys, grid, "$\\a$"),
        "curves": figures.sweep_curves([(name, [[(1, 0.1)]]) for name in names], "$\\a$"),
        "confusion": figures.confusion_matrix(counts, names, "$\\a$"),
    }
    figures.save(drawn, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_a_sweep_that_runs_is_not_taken_up_by_another_command(tmp_path: Path) -> None:
    settings = Tracking(uri=f"sqlite:///{tmp_path}/m.db", experiment="e")
    store = tracking.open_store(settings)
    running, _ = tracking.start_sweep(store, "lr", "1234", tmp_path, resume=False)
    with pytest.raises(UserError, match="resume=true: this very sweep is running"):
        tracking.start_sweep(store, "lr", "1234", tmp_path, resume=True)
    running.end("KILLED")
    again, folder = tracking.start_sweep(store, "lr", "1234", tmp_path / "other", resume=True)
    assert (again.run_id, folder) == (running.run_id, tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> RunConfig:
    """Of a sweep's job, recorded in a store of its own."""
    return check(RunConfig, composed("experiment=smoke", f"tracking.uri=sqlite:///{tmp_path}/m.db"))


@pytest.mark.parametrize("ended_by", [None, Interrupted(signal.SIGINT), RuntimeError("a fault")])
def test_a_sweep_whose_answer_cannot_be_given_says_so_and_hides_nothing(
    settings: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ended_by: BaseException | None,
) -> None:
    def full(self: sweep.Sweep) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sweep.Sweep, "answer", full)
    expected = UserError if ended_by is None else type(ended_by)
    with pytest.raises(expected) as raised, sweep.recorded(settings, tmp_path / "s", ["seed"], "1234"):
        if ended_by is not None:
            raise ended_by
    told = str(raised.value) if ended_by is None else capsys.readouterr().out
    assert "No space left on device" in told and "resume=true" in told
    store = tracking.open_store(settings.tracking)
    status = tracking.find_sweep(store, "latest").status
    assert status == ("KILLED" if isinstance(ended_by, Interrupted) else "FAILED")


def test_a_second_signal_is_the_second_for_all_that_note_them() -> None:
    with noted() as outer:
        with noted() as inner:
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Interrupted):
                inner()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        with pytest.raises(Interrupted):
            outer()


def test_a_sampler_that_has_tried_all_ends_the_search(tmp_path: Path) -> None:
    space = {"a": CategoricalDistribution(["1", "2"])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=optuna.samplers.BruteForceSampler(seed=0))
    search = _search._Search(None, None, study, space, [], [])  # type: ignore[arg-type]
    tried = []
    for trial in search._trials([]):
        tried.append(trial.params["a"])
        search._tell(trial, 0.5)
    assert sorted(tried) == ["1", "2"]
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)


# Long ones.


def wait_for_runs(started: Started, cwd: Path, count: int, ended: int) -> None:
    """Until so many runs have begun and so many have ended."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        books = [journal.read(path) for path in cwd.glob("outputs/sweeps/*/*/journal.jsonl")]
        books = [book for book in books if any(event["event"] == "epoch" for event in book)]
        if len(books) >= count and sum(journal.end_of(book) is not None for book in books) >= ended:
            return
        assert started.poll() is None, started.communicate()
        time.sleep(0.2)
    raise AssertionError("no such state within 200 s")


def family(process: Started) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: Sequence[psutil.Process], within: float) -> bool:
    """Whether all have ended."""
    return not psutil.wait_procs(processes, timeout=within)[1]


LONG = ["-m", "experiment=smoke", "epochs=30", "seed=0,1,2,3", "hydra.launcher.n_jobs=2"]


@pytest.mark.slow
def test_a_sweep_killed_in_its_middle_ends_as_an_undisturbed_one(
    start: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    started = start(*LONG)
    wait_for_runs(started, tmp_path, count=4, ended=2)
    children = family(started)
    os.killpg(started.pid, signal.SIGKILL)
    assert gone(children, within=15), "no process is left"
    store = Store(tmp_path)
    before = {r.info.run_id: store.epochs(r) for r in store.children if r.info.status == "FINISHED"}
    assert 2 <= len(before) < 4
    done = run_script("run", *LONG, "resume=true", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 4 runs are finished already" in done.stdout
    finished = [run for run in store.children if run.info.status == "FINISHED"]
    assert len(finished) == 4 and len(store.parents) == 1
    assert all(store.epochs(run) == list(range(1, 31)) for run in finished)
    assert all(
        store.epochs(run) == before[run.info.run_id] for run in finished if run.info.run_id in before
    )
    assert not any(run.info.status == "RUNNING" for run in store.runs)
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    assert run_script("run", *LONG, cwd=undisturbed, timeout=300).returncode == 0
    assert values_of(finished) == values_of(Store(undisturbed).children)


def values_of(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    return {
        run.data.params["seed"]: (run.data.metrics["best/val_loss"], run.data.metrics["test/loss"])
        for run in runs
    }


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_whole(start: Any, tmp_path: Path) -> None:
    started = start(*LONG)
    wait_for_runs(started, tmp_path, count=2, ended=0)
    children = family(started)
    started.send_signal(signal.SIGINT)
    out, _ = started.communicate(timeout=30)
    assert started.returncode == 130
    assert "Stopped. To go on: python" in out and "resume=true" in out
    assert gone(children, within=5)
    statuses = {run.info.status for run in Store(tmp_path).runs}
    assert "KILLED" in statuses and "RUNNING" not in statuses
    assert Store(tmp_path).parents[0].info.status == "KILLED"


@pytest.mark.slow
def test_sixteen_processes_at_once_on_a_store_that_does_not_exist(start: Any, tmp_path: Path) -> None:
    started = [start("experiment=smoke", "epochs=1", f"seed={seed}") for seed in range(16)]
    for each in started:
        _, errors = each.communicate(timeout=280)
        assert each.returncode == 0, errors
    store = Store(tmp_path)
    assert len(store.runs) == 16
    for run in store.runs:
        assert run.info.status == "FINISHED"
        assert store.epochs(run) == [1]
        assert len(run.inputs.dataset_inputs) == 1
        assert "test/accuracy" in run.data.metrics
        assert len(store.client.list_artifacts(run.info.run_id, "figures")) == 4


@pytest.mark.slow
def test_a_search_killed_in_its_middle_goes_on_to_just_its_number(start: Any, tmp_path: Path) -> None:
    arguments = [*SEARCH, "epochs=20", "hydra.sweeper.n_trials=6", "hydra.launcher.n_jobs=2"]
    search = start(*[word for word in arguments if word != "epochs=1"])
    wait_for_runs(search, tmp_path, count=3, ended=1)
    children = family(search)
    os.killpg(search.pid, signal.SIGKILL)
    assert gone(children, within=15)
    left = trials(tmp_path)
    assert "RUNNING" in {trial.state.name for trial in left}
    words = [word for word in arguments if word != "epochs=1"]
    ended = sum(trial.state.name == "COMPLETE" for trial in left)
    done = run_script("run", *words, "resume=true", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{ended} of 6 trials are done already" in done.stdout
    assert [trial.state.name for trial in trials(tmp_path)] == ["COMPLETE"] * 6
    (index,) = (
        json.loads(Path(Store(tmp_path).client.download_artifacts(p.info.run_id, "sweep.json")).read_text())
        for p in Store(tmp_path).parents
    )
    assert len(index["jobs"]) == 6


@pytest.mark.slow
def test_a_sweep_that_a_cluster_ends_goes_on_to_the_same_end(
    start: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Eight runs on two workers, SIGTERM in the middle."""
    eight = ["-m", "experiment=smoke", "epochs=25", "seed=range(8)", "hydra.launcher.n_jobs=2"]
    started = start(*eight)
    wait_for_runs(started, tmp_path, count=4, ended=3)
    children, asked = family(started), time.monotonic()
    started.send_signal(signal.SIGTERM)
    while time.monotonic() - asked < 5:
        paths = tmp_path.glob("outputs/sweeps/*/*/journal.jsonl")
        if all(journal.end_of(journal.read(path)) is not None for path in paths):
            break
        time.sleep(0.05)
    else:
        raise AssertionError("after five seconds a run has not saved its state")
    out, _ = started.communicate(timeout=30)
    assert started.returncode == 143 and "resume=true" in out
    assert gone(children, within=5)
    store = Store(tmp_path)
    killed = [run for run in store.children if run.info.status == "KILLED"]
    assert 1 <= len(killed) <= 2 and not any(run.info.status == "RUNNING" for run in store.runs)
    done = run_script("run", *eight, "resume=true", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(store.children) == 8
    for run in store.children:
        assert run.info.status == "FINISHED" and store.epochs(run) == list(range(1, 26))
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    assert run_script("run", *eight, cwd=undisturbed, timeout=300).returncode == 0
    assert values_of(store.children) == values_of(Store(undisturbed).children)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_ends_while_it_starts_leaves_no_process(start: Any, signum: int) -> None:
    started = start(*LONG)
    deadline = time.monotonic() + 60
    while len(children := family(started)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signum)
    started.wait(30)
    assert len(children) >= 2 and gone(children, within=20)


@pytest.mark.slow
def test_a_worker_that_dies_with_nothing_to_do_is_replaced(start: Any, tmp_path: Path) -> None:
    started = start("-m", "experiment=smoke", "epochs=1", "seed=1,2,3", "hydra.launcher.n_jobs=2")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers = [child for child in family(started) if "spawn_main" in " ".join(child.cmdline())]
        if workers:
            break
        time.sleep(0.01)
    time.sleep(0.5)
    workers[0].kill()
    out, errors = started.communicate(timeout=120)
    assert (started.returncode, errors) == (0, ""), errors
    assert "3 finished" in out
