"""A store that was moved or copied with its files works in its new place, and a copy leaves its original alone."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers import Command, InProcess
from lenetexp.config.schema import Tracking
from lenetexp.errors import UserError
from lenetexp.tracking import relocation
from lenetexp.tracking.journal import Journal, JournalReader, Start
from lenetexp.tracking.names import HOST, Tag
from lenetexp.tracking.query import get_run
from lenetexp.tracking.recorder import create_run, origin_tags
from lenetexp.tracking.registry import as_default, register
from lenetexp.tracking.store import Store, open_store

NAMES = ("plain", "a copy, ä #1 100%")


def store_of(project: Path) -> Store:
    return open_store(Tracking(uri=f"sqlite:///{project}/outputs/mlflow.db", experiment="lenetexp"))


def addresses(project: Path) -> list[str]:
    """Everything in a project's SQLite file that names a place, as MLflow or lenetexp wrote it."""
    texts = []
    with closing(sqlite3.connect(project / "outputs/mlflow.db")) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f"SELECT * FROM {table}").fetchall():
                texts += [
                    text for text in row if isinstance(text, str) and ("/outputs/" in text or "\\outputs" in text)
                ]
    return texts


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_every_address_follows_the_files(
    name: str, move: Callable[..., object], tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old, ö #2 50%", tmp_path / name
    folder = old / "outputs/runs/one"
    folder.mkdir(parents=True)
    shutil.copy(empty_store, old / "outputs/mlflow.db")
    store, model = store_of(old), tmp_path / "model"
    run = create_run(store, "a run", origin_tags(folder))
    with closing(Journal(folder)) as journal:
        journal.add(Start(run_id=run.run_id, tags=origin_tags(folder), epochs=1))
    model.mkdir()
    (model / "MLmodel").write_text("flavors: {}\nmodel_uuid: m\n")
    run.artifacts(model / "MLmodel")
    run.model(model)
    with as_default(store):
        register(store, run.run_id, model, "digits", "champion", "")
    before = addresses(old)
    assert len(before) >= 6
    move(old, new)
    original = contents(old)
    moved = store_of(new)
    assert "its files were in" in " ".join(capsys.readouterr().out.split())
    here = (new / "outputs").as_uri(), str(new / "outputs")
    assert all(text.startswith(here) for text in addresses(new)), addresses(new)
    assert len(addresses(new)) == len(before)
    again = get_run(moved, run.run_id)
    assert again.folder == new / "outputs/runs/one"
    assert moved.client.list_artifacts(run.run_id)[0].path == "MLmodel"
    assert again.download(tmp_path / "there", "MLmodel")[0].read_bytes() == (model / "MLmodel").read_bytes()
    another = create_run(moved, "another run", origin_tags(new))
    another.artifacts(model / "MLmodel")
    assert (new / f"outputs/mlartifacts/{another.run_id}/artifacts/MLmodel").exists()
    assert contents(old) == original, "a copy writes nothing into its original, and a moved one does not bring it back"
    store_of(new)
    assert capsys.readouterr().out == "", "it is said once"


def recorded_at(outputs: str, folder: str, project: Path, empty_store: Path, run_is_here: bool = True) -> Store:
    """A store in `project` whose run was recorded with these addresses of outputs/ and of its folder."""
    (project / "outputs/runs/one").mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store, project / "outputs/mlflow.db")
    client = MlflowClient(f"sqlite:///{project}/outputs/mlflow.db")
    experiment = client.create_experiment("lenetexp", f"{outputs}/mlartifacts")
    run = client.create_run(experiment, tags={Tag.FOLDER: folder, Tag.HOST: HOST})
    if run_is_here:
        (project / f"outputs/mlartifacts/{run.info.run_id}/artifacts").mkdir(parents=True)
    return Store(f"sqlite:///{project}/outputs/mlflow.db", experiment)


def locations(store: Store) -> tuple[str, str]:
    run = store.client.search_runs([store.experiment_id])[0]
    return str(run.info.artifact_uri), str(run.data.tags[Tag.FOLDER])


@pytest.mark.parametrize(
    ("outputs", "folder"),
    [
        ("file:///C:/Users/me/my%20lenetexp/outputs", r"C:\Users\me\my lenetexp\outputs\runs\one"),
        ("file:///Users/me/outputs", "/Users/me/outputs/runs/one"),
    ],
)
def test_a_store_of_another_system_is_read_here(outputs: str, folder: str, tmp_path: Path, empty_store: Path) -> None:
    store = recorded_at(outputs, folder, tmp_path, empty_store)
    store_of(tmp_path)
    uri, place = locations(store)
    assert uri.startswith((tmp_path / "outputs/mlartifacts").as_uri()) and uri.endswith("/artifacts")
    assert place == str(tmp_path / "outputs/runs/one")


@pytest.mark.parametrize("outputs", ["file:///big/disk", "s3://bucket", "mlflow-artifacts:/1"])
def test_artifacts_that_are_kept_elsewhere_on_purpose_stay_there(
    outputs: str, tmp_path: Path, empty_store: Path
) -> None:
    folder = str(tmp_path / "outputs/runs/one")
    store = recorded_at(outputs, folder, tmp_path, empty_store, run_is_here=False)
    before = locations(store)
    store_of(tmp_path)
    assert locations(store) == before


def test_a_database_that_was_moved_alone_keeps_its_addresses(tmp_path: Path, empty_store: Path) -> None:
    old, archive = tmp_path / "old/outputs", tmp_path / "archive/outputs"
    store = recorded_at(old.as_uri(), str(old / "runs/one"), tmp_path / "old", empty_store)
    before = locations(store)
    archive.mkdir(parents=True)
    (old / "mlflow.db").rename(archive / "mlflow.db")
    assert locations(store_of(archive.parent)) == before


def test_a_run_that_is_recorded_here_under_the_former_name_is_not_disturbed(tmp_path: Path, empty_store: Path) -> None:
    """As in a container that has the project under another name."""
    store = recorded_at("file:///former/outputs", "/former/outputs/runs/one", tmp_path, empty_store)
    before = locations(store)
    with closing(Journal(tmp_path / "outputs/runs/one")), pytest.raises(UserError, match="is being recorded here as"):
        store_of(tmp_path)
    assert locations(store) == before
    store_of(tmp_path)
    assert locations(store) != before


def test_a_store_that_cannot_be_written_says_so(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = recorded_at("file:///former/outputs", "/former/outputs/runs/one", tmp_path, empty_store)
    path = tmp_path / "outputs/mlflow.db"
    read_only = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    monkeypatch.setattr(relocation.sqlite3, "connect", lambda *_, **__: read_only)
    with pytest.raises(
        UserError, match=r"was moved, and its addresses cannot be updated \(.*readonly.*copy its folder"
    ):
        relocation.update_addresses(path)
    monkeypatch.undo()
    assert locations(store)[1] == "/former/outputs/runs/one"


def test_what_is_killed_on_the_way_changes_nothing(tmp_path: Path, empty_store: Path) -> None:
    store = recorded_at("file:///former/outputs", "/former/outputs/runs/one", tmp_path, empty_store)
    before, path = locations(store), tmp_path / "outputs/mlflow.db"
    # Ends like kill -9 once the runs' addresses are changed and the tags' are next.
    code = (
        "import os, pathlib; from lenetexp.tracking import relocation as r; whole = r._addresses\n"
        "def killed(database, table, *rest):\n"
        "    if table == 'experiments': os.kill(os.getpid(), 9)\n"
        "    return whole(database, table, *rest)\n"
        f"r._addresses = killed; r.update_addresses(pathlib.Path({str(path)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert locations(store) == before
    store_of(tmp_path)
    assert locations(store)[1] == str(tmp_path / "outputs/runs/one")


def test_several_processes_may_open_a_moved_store_at_once(tmp_path: Path, empty_store: Path) -> None:
    store = recorded_at("file:///former/outputs", "/former/outputs/runs/one", tmp_path, empty_store)
    path = str(tmp_path / "outputs/mlflow.db")
    code = f"import pathlib; from lenetexp.tracking import relocation as r; r.update_addresses(pathlib.Path({path!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum("addresses are updated" in " ".join(text.split()) for text in told) == 1
    assert locations(store)[1] == str(tmp_path / "outputs/runs/one")


def test_a_copy_of_a_trained_net_is_read_from_its_own_files(trained: InProcess, tmp_path: Path, typed: Command) -> None:
    """Also if only the run's folder came along, and none of MLflow's artifacts."""
    project = tmp_path / "copy"
    shutil.copytree(trained.cwd, project)
    shutil.rmtree(project / "outputs/mlartifacts")
    original = contents(trained.cwd)
    os.chdir(project)
    words = (f"tracking.uri=sqlite:///{project}/outputs/mlflow.db",)
    done = typed("predict", "run=latest", "count=3", *words)
    assert done.returncode == 0 and "LeNet on digits" in " ".join(done.stdout.split()), done.stderr
    best = next(project.glob("outputs/runs/*/checkpoints/best.pt"))
    best.unlink()
    done = typed("predict", "run=latest", *words)
    assert done.returncode == 1
    assert (
        "has no artifact checkpoints/best.pt" in done.stderr and f"neither in {best.parents[1]} nor in" in done.stderr
    )
    assert contents(trained.cwd) == original


def test_a_run_recorded_offline_is_resumed_and_sent_from_its_new_place(
    here: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here.train("tracking.offline=true", "epochs=3", stop_after=1)
    shutil.copytree(here.cwd / "outputs/runs", here.cwd / "elsewhere/outputs/runs")
    original = contents(here.cwd / "outputs/runs")
    monkeypatch.chdir(here.cwd / "elsewhere")
    here.train("tracking.offline=true", "epochs=3", "resume=true")
    assert "after epoch 1 of run" in capsys.readouterr().out
    assert contents(here.cwd / "outputs/runs") == original
    assert JournalReader(Path("outputs/runs/0")).end is not None
