"""A search: Hydra's sweep syntax is the space, Optuna proposes, MLflow holds the results."""

import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from helpers import Started, Store, all_gone, family, run_script, wait_for_runs
from lenetexp.errors import UserError
from lenetexp.sweeps.search import _open_study, _Search, distribution


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
    assert distribution(parsed(text)) == expected


@pytest.mark.parametrize("text", ["a=tag(log,interval(0,1))", "a=interval(2,1)"])
def test_a_space_that_optuna_does_not_take_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError) as told:
        distribution(parsed(text))
    assert str(told.value).startswith(f"{text}: ") and "\n" not in str(told.value)


def search_of(study: optuna.Study, **space: list[str]) -> Any:
    nothing: Any = None
    choices = {key: CategoricalDistribution(values) for key, values in space.items()}
    return _Search(nothing, nothing, nothing, study, choices)


def test_a_sampler_that_has_tried_all_ends_the_search() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=optuna.samplers.BruteForceSampler(seed=0))
    search, tried = search_of(study, a=["1", "2"]), []
    for trial in search._trials([]):
        tried.append(trial.params["a"])
        search._tell(trial, 0.5)
    assert sorted(tried) == ["1", "2"]
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)


def test_what_an_earlier_command_left_comes_first() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    search = search_of(study, a=["1", "2"])
    running, failed, torn = (study.ask(search.space) for _ in range(3))
    study.tell(failed, state=TrialState.FAIL)
    left = study.get_trials()
    left[torn.number].params = {}  # killed while it was drawn
    trials = search._trials(left)
    assert next(trials).number == running.number
    assert next(trials).params == failed.params
    assert study.trials[torn.number].state == TrialState.FAIL


def test_a_resumed_search_needs_the_same_choices(tmp_path: Path) -> None:
    own: Any = SimpleNamespace(storage=f"sqlite:///{tmp_path}/optuna.db", sampler=None, pruner=None)
    before = {"a": CategoricalDistribution(["relu", "tanh"])}
    study = _open_study(own, "s", before)
    study.tell(study.ask(before), 0.5)
    assert len(_open_study(own, "s", before).trials) == 1
    with pytest.raises(UserError, match="resume=true: a was searched over relu, tanh before"):
        _open_study(own, "s", {"a": CategoricalDistribution(["relu", "tanh", "elu"])})


SEARCH = ["-m", "hydra/sweeper=optuna", "experiment=smoke", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]


def trials(cwd: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{cwd}/outputs/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


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
