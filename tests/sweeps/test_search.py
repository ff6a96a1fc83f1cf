"""A search: Hydra's sweep syntax is the space, Optuna proposes, MLflow holds the results."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from helpers import Command, Done, InProcess, Started, Store, all_gone, family, run_script, wait_for_runs
from lenetexp.errors import UserError
from lenetexp.sweeps.search import parse_distribution


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
    assert parse_distribution(parsed(text)) == expected


@pytest.mark.parametrize("text", ["a=tag(log,interval(0,1))", "a=interval(2,1)"])
def test_a_space_that_optuna_does_not_take_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError) as told:
        parse_distribution(parsed(text))
    assert str(told.value).startswith(f"{text}: ") and "\n" not in str(told.value)


@pytest.fixture
def search(typed: Command, here: InProcess, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """A search as it is typed, whose trials run within this process one after the other."""
    monkeypatch.setattr("lenetexp.runs.experiment.try_draw", lambda _: True)
    monkeypatch.setattr("lenetexp.sweeps.summary.try_draw", lambda _: False)
    settings = ["hydra/sweeper=optuna", "hydra/launcher=basic", "hydra.sweeper.n_jobs=1"]
    recipe = ["experiment=smoke", "epochs=1", f"tracking.uri={here.uri}"]
    return lambda *words: typed("run", "-m", *settings, *recipe, *words)


def test_a_sampler_that_has_tried_all_ends_the_search(search: Callable[..., Done], tmp_path: Path) -> None:
    brute_force = "hydra.sweeper.sampler={_target_:optuna.samplers.BruteForceSampler,seed:0}"
    done = search("hydra.sweeper.n_trials=5", "model.activation=relu,tanh", brute_force)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "the sampler has nothing more to propose" in done.stdout
    tried = sorted((trial.params["model.activation"], trial.state.name) for trial in trials(tmp_path))
    assert tried == [("relu", "COMPLETE"), ("tanh", "COMPLETE")]


def test_what_an_earlier_command_left_comes_first(
    search: Callable[..., Done], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    space = "optimizer.lr=interval(0.001,0.01)"
    assert search("hydra.sweeper.n_trials=1", space).returncode == 0
    study = study_of(tmp_path)
    running, failed = (study.ask({"optimizer.lr": FloatDistribution(0.001, 0.01)}) for _ in range(2))
    running.report(0.5, step=1)
    study.tell(failed, state=TrialState.FAIL)
    torn = study.ask()  # killed while it was drawn
    done = search("hydra.sweeper.n_trials=3", space, "resume=true")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "1 of 3 trials are done already" in done.stdout
    first, again, tried, torn_now, anew = trials(tmp_path)
    states = [trial.state.name for trial in (first, again, tried, torn_now, anew)]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert not [warning for warning in recwarn if "already reported" in str(warning.message)]
    assert (again.number, torn_now.number, anew.params) == (running.number, torn.number, failed.params)


def test_a_resumed_search_needs_the_same_choices(search: Callable[..., Done]) -> None:
    assert search("hydra.sweeper.n_trials=1", "model.activation=relu,tanh").returncode == 0
    done = search("hydra.sweeper.n_trials=2", "model.activation=relu,tanh,elu", "resume=true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: resume=true: model.activation was searched over relu, tanh before")


SEARCH = ["-m", "hydra/sweeper=optuna", "experiment=smoke", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]


def study_of(cwd: Path) -> optuna.Study:
    """The only one of a folder."""
    storage = f"sqlite:///{cwd}/outputs/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def trials(cwd: Path) -> list[optuna.trial.FrozenTrial]:
    return study_of(cwd).get_trials()


@pytest.mark.slow
def test_a_search_tells_optuna_what_mlflow_holds(tmp_path: Path) -> None:
    done = run_script("run", *SEARCH, "epochs=1", "hydra.sweeper.n_trials=3", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    values = {run.data.metrics["best/val_accuracy"] for run in Store(tmp_path).children}
    assert {trial.value for trial in found} == values
    again = run_script("run", *SEARCH, "epochs=1", "hydra.sweeper.n_trials=3", "resume=true", cwd=tmp_path)
    assert again.returncode == 0 and "3 of 3 trials are done already" in again.stdout


@pytest.mark.slow
def test_a_killed_search_resumes_to_its_number_of_trials(start: Callable[..., Started], tmp_path: Path) -> None:
    words = [*SEARCH, "epochs=20", "hydra.sweeper.n_trials=6", "hydra.launcher.n_jobs=2"]
    search = start(*words)
    wait_for_runs(search, tmp_path, count=3, ended=1)
    children = family(search)
    os.killpg(search.pid, signal.SIGKILL)
    assert all_gone(children, within=15)
    left = trials(tmp_path)
    assert "RUNNING" in {trial.state.name for trial in left}
    ended = sum(trial.state.name == "COMPLETE" for trial in left)
    done = run_script("run", *words, "resume=true", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{ended} of 6 trials are done already" in done.stdout
    assert [trial.state.name for trial in trials(tmp_path)] == ["COMPLETE"] * 6
    store = Store(tmp_path)
    (sweep,) = store.sweeps
    index = json.loads(Path(store.client.download_artifacts(sweep.info.run_id, "sweep.json")).read_text())
    assert len(index["jobs"]) == 6
