"""MLflow gets everything once and in order, whatever happens to it meanwhile; nothing stops training."""

import inspect
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from mlflow import MlflowClient

from helpers import InProcess, Server, Started, Store, run_script, wait_for_epochs
from lenetexp.config.commands import SyncConfig
from lenetexp.config.schema import check_config
from lenetexp.errors import UserError
from lenetexp.tracking import outbox as module
from lenetexp.tracking import store as stores
from lenetexp.tracking.journal import Epoch, Journal, JournalReader, Mark, Start
from lenetexp.tracking.names import HOST, Tag
from lenetexp.tracking.outbox import Outbox, sync
from lenetexp.tracking.recorder import Recorder

START = Start(tags={Tag.HOST: HOST}, epochs=2, run_id="4d1f")


def fake_recorder(*answers: Exception | None) -> Any:
    """Keeps in `got` what it is sent, by the methods of a recorder; `answers` says what goes wrong first."""
    recorder = create_autospec(Recorder, instance=True, store=stores.Store("http://store", "1"), run_id="4d1f", got=[])
    left = list(answers)

    def take(name: str, *arguments: Any) -> None:
        """What any method does."""
        if left and (error := left.pop(0)):
            raise error
        recorder.got.append((name, *arguments))

    for name, _ in inspect.getmembers(Recorder, inspect.isfunction):
        if not name.startswith("_"):
            getattr(recorder, name).side_effect = partial(take, name)
    return recorder


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LAST_TRIES", 1)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Of a run that was created in MLflow with its start."""
    events = Journal(tmp_path)
    events.add(START)
    events.add(Mark(event="sent", store="http://store"))
    yield events
    events.close()


def opened(journal: Journal, recorder: Any, said: list[str] | None = None) -> Outbox:
    return Outbox(journal, recorder, (said if said is not None else []).append)


def trained(outbox: Outbox) -> None:
    for number in (1, 2):
        outbox.log_epoch(number, {"val/loss": 1 / number})
    outbox.log_result({"best/epoch": 2})
    outbox.set_tag("a", "b")


def sent_by(recorder: Any) -> list[tuple[Any, ...]]:
    """What was sent, without times."""
    return [call[:3] for call in recorder.got if call[0] != "artifacts"]


EVERYTHING = [
    ("metrics", {"val/loss": 1.0}, 1), ("metrics", {"val/loss": 0.5}, 2), ("metrics", {"best/epoch": 2.0}, 0),
    ("tag", "a", "b"),
]  # fmt: skip


def test_everything_is_sent_once_and_in_order(journal: Journal) -> None:
    recorder = fake_recorder()
    outbox = opened(journal, recorder)
    trained(outbox)
    outbox.log_epoch(2, {"val/loss": 0.5})  # a resumed command repeats what an interrupted one may not have written
    outbox.log_result({"best/epoch": 2})
    assert outbox.finish("FINISHED")
    assert [*sent_by(recorder)[:-1], recorder.got[-1][:2]] == [*EVERYTHING, ("end", "FINISHED")]
    last = JournalReader(journal.folder).events[-1]
    assert last.event == "sent" and last.store == "http://store"


def test_the_folder_is_uploaded_without_what_is_not_part_of_the_record(journal: Journal) -> None:
    for name in ("config.yaml", "checkpoints/best.pt", "model/MLmodel", "stop", ".hidden"):
        (journal.folder / name).parent.mkdir(exist_ok=True)
        (journal.folder / name).touch()
    recorder = fake_recorder()
    outbox = opened(journal, recorder)
    outbox.add(Mark(event="model"))
    assert outbox.finish("FINISHED")
    folder = journal.folder
    assert recorder.got[:-1] == [
        ("artifacts", folder / "config.yaml", None),  # at once: another machine needs it to resume
        ("model", folder / "model"),
        ("artifacts", folder / "checkpoints", "checkpoints"),
        ("artifacts", folder / "config.yaml", None),
    ]


def test_after_an_outage_the_rest_is_sent_and_the_user_was_told_once(journal: Journal) -> None:
    said: list[str] = []
    recorder = fake_recorder(None, UserError("no answer"), OSError("no\nanswer"), None, UserError("no answer"))
    outbox = opened(journal, recorder, said)
    trained(outbox)
    deadline = time.monotonic() + 10
    while len(recorder.got) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert outbox.close()
    assert sent_by(recorder) == EVERYTHING
    assert said == ["note: no answer; what is missing there is kept and sent later"]


def test_what_an_outage_left_is_sent_by_the_next_command(journal: Journal) -> None:
    gone = fake_recorder(*[UserError("no answer")] * 99)
    outbox = opened(journal, gone)
    trained(outbox)
    assert not outbox.finish("FINISHED", patience=5)
    assert journal.events[-1].event != "sent"
    later, events = fake_recorder(), Journal(journal.folder)
    assert opened(events, later).close()
    assert [*sent_by(later)[:-1], later.got[-1][:2]] == [*EVERYTHING, ("end", "FINISHED")]
    assert JournalReader(journal.folder).events[-1].event == "sent"
    nothing, events = fake_recorder(), Journal(journal.folder)
    assert opened(events, nothing).close() and nothing.got == []


def test_a_store_that_takes_some_calls_does_not_show_a_run_as_running(journal: Journal) -> None:
    recorder = fake_recorder(UserError("no room"))
    outbox = opened(journal, recorder)
    outbox._closing.set()  # the run has ended, and one try is left
    outbox.set_tag("a", "b")
    assert not outbox.close()
    assert recorder.got == [("tag", Tag.UNSENT, "no room"), ("end", "FAILED")]


def test_what_a_server_refuses_is_skipped_and_the_run_is_not_finished(journal: Journal) -> None:
    said: list[str] = []
    recorder = fake_recorder(stores.RefusalError("a metric is refused"))
    outbox = opened(journal, recorder, said)
    trained(outbox)
    assert outbox.finish("FINISHED")
    assert (outbox.refused, said) == ("a metric is refused", ["note: a metric is refused"])
    assert sent_by(recorder)[:3] == EVERYTHING[1:]
    assert ("tag", Tag.REASON, "a metric is refused") in recorder.got
    assert recorder.got[-1][:2] == ("end", "FAILED")
    assert journal.events[-1].event != "sent"


def test_a_server_that_hangs_is_waited_for_no_longer_than_asked(journal: Journal) -> None:
    recorder = fake_recorder()
    recorder.metrics.side_effect = lambda *_: time.sleep(30)
    outbox = opened(journal, recorder)
    began = time.monotonic()
    outbox.log_epoch(1, {"val/loss": 1.0})
    assert time.monotonic() - began < 0.5, "training does not wait"
    assert not outbox.finish("KILLED", patience=0.3)
    assert time.monotonic() - began < 2
    assert len(JournalReader(journal.folder).select(Epoch)) == 1


def test_a_run_whose_files_were_not_taken_is_finished_once_they_are(
    here: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_artifacts", full_disk)
        here.train("epochs=1")
    assert "python scripts/sync.py folder=outputs/runs/0" in capsys.readouterr().out
    (run,) = here.runs
    assert run.info.status == "FAILED" and run.data.metrics["test/accuracy"] >= 0
    assert "No space left on device" in run.data.tags[Tag.UNSENT]
    tracking = {"uri": here.uri, "experiment": "lenetexp"}
    sync(check_config(SyncConfig, {"folder": "outputs", "tracking": tracking}), {}, Path("synced"))
    assert here.runs[0].info.status == "FINISHED" and Tag.UNSENT not in here.runs[0].data.tags
    assert "checkpoints" in here.artifacts(run)


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_real_server_that_goes_away_during_a_run(
    start: Callable[..., Started], tmp_path: Path, comes_back: bool
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    server.start()
    try:
        run = start("experiment=smoke", "epochs=150", f"tracking.uri={server.uri}")
        wait_for_epochs(run, tmp_path, 5)
        server.stop()
        if comes_back:
            time.sleep(5)
            server.start()
        out, errors = run.communicate(timeout=200)
        assert (run.returncode, errors) == (0, ""), errors
        assert out.count("what is missing there is kept") == 1, "the user is told once"
        if not comes_back:
            assert "python scripts/sync.py folder=" in out
            server.start()
            sent = run_script("sync", f"tracking.uri={server.uri}", cwd=tmp_path)
            assert sent.returncode == 0, sent.stderr
        store = Store(tmp_path, server.uri)
        (got,) = store.runs
        assert got.info.status == "FINISHED"
        for key in ("val/loss", "lr", "images_per_second"):
            assert [step for step, _ in store.history(got, key)] == list(range(1, 151)), key
        for key in ("best/epoch", "test/accuracy"):
            assert len(store.history(got, key)) == 1, key
        assert {"checkpoints", "config.yaml", "figures", "reproduce"} <= store.artifacts(got)
    finally:
        server.stop()
