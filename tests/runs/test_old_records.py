"""What earlier versions recorded is still read, compared, resumed and predicted from.

tests/data/old_records.tar.xz is what commit 0d6f7e2 left of `experiment=smoke seed=1`, which finished; of
`-m experiment=smoke epochs=1 optimizer.lr=1e-2,1e-3`; and of `experiment=smoke epochs=40 seed=2`, killed with kill -9
after epoch 4. Its store is a dump, with /old/place for the folder and old-host for the machine.
"""

import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import Command, InProcess, Store
from lenetexp.tracking.names import HOST
from lenetexp.training.state import load_checkpoint

ARCHIVE = Path(__file__).parents[1] / "data/old_records.tar.xz"
FINISHED, KILLED = "7fd65517c9534d7b8f610615081675a7", "b89d5684ed6c485cb0f68b4fe0d11930"


@pytest.fixture(scope="module", params=["made here", "moved", "handed in"])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The records as if made here by this machine, moved here on this machine, or brought here from another one."""
    cwd = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(cwd, filter="data")
    place = str(cwd) if request.param == "made here" else "/old/place"
    host = "old-host" if request.param == "handed in" else HOST
    for path in cwd.rglob("*"):
        if path.suffix in (".jsonl", ".sql"):
            path.write_text(path.read_text().replace("/old/place", place).replace("old-host", host))
    with sqlite3.connect(cwd / "outputs/mlflow.db") as database:
        database.executescript((cwd / "outputs/mlflow.sql").read_text())
    database.close()
    return Store(cwd)


@pytest.fixture
def shown(old: Store, typed: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command prints in that folder."""
    monkeypatch.chdir(old.cwd)

    def call(script: str, *words: str) -> str:
        done = typed(script, *words, f"tracking.uri={old.uri}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_an_old_sweep_is_compared(shown: Callable[..., str]) -> None:
    out = shown("compare", "sweep=latest")
    for line in ("0.01 83.22% 1 83.01%", "0.001 72.03% 1 72.42%", "2 finished"):
        assert line in " ".join(out.split())


def test_an_old_sweep_and_an_old_run_are_reported(old: Store, shown: Callable[..., str]) -> None:
    for words, expected in (("sweep=latest", "Accuracy by setting"), (f"run={FINISHED}", "Learning curves")):
        path = shown("report", words).split()[-1]
        assert expected in (old.cwd / path).read_text()


def test_an_old_run_predicts(shown: Callable[..., str]) -> None:
    out = shown("predict", f"run={FINISHED}", "count=3")
    assert out.count("predicted:") == 3 and "another digest" not in out


def test_an_old_finished_run_is_known(shown: Callable[..., str]) -> None:
    out = shown("run", "experiment=smoke", "seed=1", "resume=true")
    assert f"Run {FINISHED} of this config is finished already: validation 83.22%, test 87.74%" in " ".join(out.split())


def test_an_old_killed_run_is_resumed(
    old: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Last, because it is the newest run then; up to its sixth epoch."""
    monkeypatch.chdir(old.cwd)
    tags = old.client.get_run(KILLED).data.tags
    # Another machine may still be running it: it must be named.
    which = "true" if tags["lenetexp.host"] == HOST else KILLED
    words = ["epochs=40", "seed=2", "device.name=auto", f"resume={which}"]
    InProcess(old.cwd, monkeypatch=monkeypatch).train(*words, stop_after=6)
    assert f"after epoch 4 of run {KILLED}" in capsys.readouterr().out
    (run,) = [run for run in old.runs if run.info.run_id == KILLED]
    assert run.info.status == "KILLED" and old.epochs(run) == [1, 2, 3, 4, 5, 6]
    folder = Path(run.data.tags["lenetexp.folder"])
    assert [record["epoch"] for record in load_checkpoint(folder / "checkpoints/last.pt")["history"]][-1] == 6
