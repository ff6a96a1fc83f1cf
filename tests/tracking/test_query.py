"""Runs are found in the store, and what cannot be found or read is one sentence."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from helpers import InProcess
from lenetexp.config.schema import Tracking
from lenetexp.errors import UserError
from lenetexp.tracking import store as stores
from lenetexp.tracking.journal import Journal, Mark, Start
from lenetexp.tracking.names import BEST_ACCURACY, BEST_LOSS, HOST, File, Tag
from lenetexp.tracking.query import RecordedRun, get_run, list_offline_runs, search_runs
from lenetexp.tracking.recorder import Recorder, create_run
from lenetexp.tracking.selection import find_run, find_runs, find_sweep
from lenetexp.tracking.store import Store, open_store


@pytest.fixture
def store(here: InProcess) -> Store:
    """An empty one."""
    return open_store(Tracking(uri=here.uri, experiment="lenetexp"))


def finished(store: Store, accuracy: float, loss: float = 0.1, dataset: str = "digits", **tags: str) -> str:
    """The id of a finished run."""
    recorder = create_run(store, "a run", {Tag.CONFIG_HASH: "c0", **tags})
    recorder.log_start(Start(tags={}, epochs=1, dataset={"name": dataset, "digest": dataset, "source": "{}"}))
    recorder.log_metrics({BEST_ACCURACY: accuracy, BEST_LOSS: loss})
    recorder.terminate("FINISHED")
    return recorder.run_id


def of_tags(folder: Path, status: str = "RUNNING", run_id: str = "4d1f", **tags: str) -> RecordedRun:
    """A run that was started here in `folder`."""
    known = {Tag.HOST: HOST, Tag.FOLDER: str(folder), **tags}
    return RecordedRun(run_id, "a run", status, metrics={}, params={}, tags=known, started=0)


def test_runs_are_found_by_latest_best_and_id(store: Store) -> None:
    ids = [finished(store, 0.9, 0.2), finished(store, 0.9, 0.1), finished(store, 0.8)]
    unfinished = create_run(store, "failed", {})
    unfinished.log_metrics({BEST_ACCURACY: 0.99})
    unfinished.terminate("FAILED")
    assert find_run(store, "best").run_id == ids[1], "of equal accuracies the lower loss"
    assert find_run(store, "latest").run_id == ids[2]
    assert find_run(store, unfinished.run_id).status == "FAILED"
    sweep = create_run(store, "a sweep", {Tag.SWEEP: "1234"})
    assert find_sweep(store, "latest").run_id == find_sweep(store, sweep.run_id).run_id == sweep.run_id


def test_the_best_run_is_one_on_the_newest_runs_dataset(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A digits net with 143 validation images easily has a higher accuracy than an MNIST net."""
    digits, mnist = finished(store, 0.99), finished(store, 0.97, dataset="MNIST")
    finished(store, 0.96, dataset="MNIST")
    assert find_run(store, "best").run_id == mnist
    said = " ".join(capsys.readouterr().out.split())
    assert said == "run=best: the best of 2 runs on MNIST, the newest run's dataset; of others: run=best:digits"
    assert find_run(store, "best:Digits").run_id == digits
    assert capsys.readouterr().out == "run=best:Digits: the best of 1 run on digits\n"


@pytest.mark.parametrize("counts", [False, True])
def test_latest_after_a_sweep_is_its_best_run(store: Store, capsys: pytest.CaptureFixture[str], counts: bool) -> None:
    """By its accuracy while the sweep runs, then as its results say: with seeds, of the best mean."""
    sweep = create_run(store, "lr", {Tag.SWEEP: "1234"})
    best, second, last = (finished(store, accuracy, **{Tag.PARENT: sweep.run_id}) for accuracy in (0.9, 0.8, 0.1))
    if counts:
        sweep.set_tag(Tag.BEST_RUN, second)
    assert find_run(store, "latest").run_id == (second if counts else best)
    said = " ".join(capsys.readouterr().out.split())
    assert said == f"run=latest: the best run of the newest sweep; the one that began last: run={last}"
    alone = finished(store, 0.5)
    assert find_run(store, "latest").run_id == alone
    assert capsys.readouterr().out == ""


def test_latest_after_a_sweep_over_datasets_is_the_best_on_one(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = {Tag.PARENT: create_run(store, "dataset", {Tag.SWEEP: "1234"}).run_id}
    mnist = finished(store, 0.99, dataset="MNIST", **sweep)
    best, _ = (finished(store, accuracy, **sweep) for accuracy in (0.9, 0.8))
    assert find_run(store, "latest").run_id == best
    message = " ".join(capsys.readouterr().out.split())
    assert f"the best run on digits, the newest run's dataset, of the newest sweep; on MNIST: run={mnist}" in message


def test_runs_to_compare_are_found_by_number_id_and_filter(store: Store) -> None:
    first, second, third = (finished(store, accuracy) for accuracy in (0.7, 0.8, 0.9))
    create_run(store, "a sweep", {Tag.SWEEP: "1234"}).terminate("FINISHED")
    failed = create_run(store, "failed", {Tag.CONFIG_HASH: "c1"})
    failed.terminate("FAILED")

    def found(which: str | list[str]) -> list[str]:
        return [run.run_id for run in find_runs(store, which)]

    assert found("latest:2") == [third, second]
    assert found([second, first, second]) == [second, first]
    assert found(first) == [first]
    assert found("all") == [failed.run_id, third, second, first]
    assert found(f"metrics.`{BEST_ACCURACY}` > 0.75") == [third, second]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda store: find_run(store, "latest"), "run=latest: no finished run in sqlite:.*train one: python"),
        (lambda store: find_run(store, "4d1f"), "run=4d1f: .*must be latest, best, best:DATASET, a run's id"),
        (lambda store: find_run(store, "lates"), "run=lates: there is no such run .*did you mean latest"),
        (lambda store: find_run(store, "latest:digits"), "run=latest:digits: there is no such run"),
        (lambda store: finished(store, 0.9) and find_run(store, "best:mnist"), "no finished run on mnist; .*digits"),
        (lambda store: find_sweep(store, "latest"), "sweep=latest: no sweep in sqlite:.*run one: python"),
        (lambda store: find_sweep(store, "4d1f"), "sweep=4d1f: .*no such run .*must be latest, the id of a sweep"),
        (lambda store: find_sweep(store, finished(store, 0.9)), "is not a sweep; must be latest, the id of a sweep"),
        (lambda store: find_runs(store, "a b"), r"runs=a b: must be latest:3, all, \[ID,ID\] or a filter that MLflow"),
        (lambda store: find_runs(store, "latest:0"), "runs=latest:0: must be latest:3, all"),
        (lambda store: find_runs(store, ["4d1f"]), r"runs=4d1f: there is no such run .*must be latest:3, all, \[ID"),
        (lambda store: find_runs(store, [create_run(store, "lr", {Tag.SWEEP: "1"}).run_id]), "is a sweep; sweep="),
        (lambda store: get_run(store, finished(store, 0.9)).download(Path("x"), File.BEST), "has no artifact check"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_sentence(store: Store, ask: Callable[[Store], object], said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        ask(store)
    assert "\n" not in str(told.value)


def client_without_server() -> Any:
    """MLflow's client, whose every call fails."""
    client = create_autospec(MlflowClient, instance=True)
    for name, _ in inspect.getmembers(MlflowClient, inspect.isfunction):
        if not name.startswith("_"):
            getattr(client, name).side_effect = MlflowException(f"{name}: connection\nrefused")
    return client


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, run: search_runs(store, "tags.a = 'b'"),
        lambda store, run: find_run(store, "best"),
        lambda store, run: find_run(store, "4d1f"),
        lambda store, run: find_sweep(store, "latest"),
        lambda store, run: run.get_history("a"),
        lambda store, run: run.list_artifacts(),
        lambda store, run: run.download(Path("x"), File.SWEEP),
        lambda store, run: create_run(store, "lr", {}),
        lambda store, run: Recorder(store, "4d1f").clear_tags("a"),
    ],
)
def test_a_store_that_fails_is_one_sentence_without_its_password(
    ask: Callable[[Store, RecordedRun], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_without_server()
    monkeypatch.setattr(stores, "_connect", lambda _: client)
    store = Store("http://me:secret@127.0.0.1:9", "1")
    run = RecordedRun("4d1f", "a run", "RUNNING", metrics={}, params={}, tags={}, started=0, store=store)
    with pytest.raises(UserError, match="connection refused") as told:
        ask(store, run)
    assert "secret" not in str(told.value) and "\n" not in str(told.value)


def test_a_run_that_is_marked_as_running_was_killed_unless_its_process_holds_its_folder(tmp_path: Path) -> None:
    run = of_tags(tmp_path)
    assert run.was_killed_here and not run.is_running_here
    events = Journal(tmp_path)
    assert run.is_running_here and not run.was_killed_here
    events.close()
    assert not of_tags(tmp_path, "FINISHED").was_killed_here
    elsewhere = of_tags(tmp_path, **{Tag.HOST: f"not-{HOST}"})
    assert not elsewhere.was_killed_here and not elsewhere.is_running_here, "who knows"


def test_a_folder_belongs_to_the_run_that_its_journal_names(tmp_path: Path) -> None:
    assert of_tags(tmp_path).folder is None, "no journal"
    events = Journal(tmp_path)
    events.add(Start(tags={Tag.JOURNAL: "a key"}, epochs=1))
    assert of_tags(tmp_path, **{Tag.JOURNAL: "a key"}).folder == tmp_path, "killed before its id was written down"
    events.add(Mark(event="created", run_id="4d1f"))
    events.close()
    assert of_tags(tmp_path).folder == tmp_path
    assert of_tags(tmp_path, run_id="another").folder is None
    assert of_tags(tmp_path, **{Tag.HOST: f"not-{HOST}"}).folder == tmp_path, "brought here"


def test_runs_recorded_offline_are_found_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, started in (("1", 5), ("2", 9), ("3", 7)):
        (tmp_path / name).mkdir()
        events = Journal(tmp_path / name)
        events.add(Start(time=started, tags={Tag.CONFIG_HASH: name}, epochs=1, params={"seed": 1}))
        events.close()
    with (tmp_path / "3/journal.jsonl").open("a") as file:
        file.write("noise\n")
    found = list_offline_runs(tmp_path / "new")
    assert [(run.config_hash, run.status, run.params) for run in found] == [
        ("2", "RUNNING", {"seed": "1"}), ("1", "RUNNING", {"seed": "1"}),
    ]  # fmt: skip
    assert "3/journal.jsonl is damaged" in capsys.readouterr().out
