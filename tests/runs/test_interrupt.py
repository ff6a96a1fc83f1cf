"""A signal or a full disk ends a run within seconds, with its record closed and its checkpoint intact."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers import InProcess, Started, wait_for_epochs
from lenetexp.errors import UserError
from lenetexp.runs.interrupt import SIGNALS, Interruption, defer_signals, raised
from lenetexp.tracking.journal import AnyEvent, Journal
from lenetexp.tracking.recorder import Recorder
from lenetexp.training.state import load_checkpoint

LONG = ["experiment=smoke", "device=cpu", "epochs=4000"]


# ---- signals ----


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_noted_and_raised_at_a_safe_point(signum: int) -> None:
    outside = signal.signal(signum, signal.SIG_DFL)  # the tests themselves may run under nohup
    with pytest.raises(Interruption) as stop, defer_signals() as stop_if_asked:
        stop_if_asked()
        os.kill(os.getpid(), signum)
        stop_if_asked()
    assert stop.value.code == 128 + signum
    with pytest.raises(Interruption), raised():
        os.kill(os.getpid(), signum)
        time.sleep(1)
    assert signal.signal(signum, outside) == signal.SIG_DFL, "as it was before"


def test_the_second_signal_ends_everything_that_notes_signals_at_once() -> None:
    with defer_signals() as outer:
        with defer_signals() as inner:
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Interruption):
                inner()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        with pytest.raises(Interruption):
            outer()


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with defer_signals() as stop_if_asked:
            os.kill(os.getpid(), signal.SIGHUP)
            stop_if_asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_ends_a_run_and_the_command_that_is_printed_resumes_it(
    start: Callable[..., Started], here: InProcess
) -> None:
    run, epochs = start(*LONG), [0]
    for signum in (signal.SIGTERM, signal.SIGINT):
        count = epochs[-1] + 2
        wait_for_epochs(run, here.cwd, count)
        asked = time.monotonic()
        run.send_signal(signum)
        out, errors = run.communicate(timeout=30)
        assert time.monotonic() - asked < 5
        assert (run.returncode, errors) == (128 + signum, "")
        (killed,) = here.runs
        epochs = here.epochs(killed)
        assert killed.info.status == "KILLED" and len(epochs) >= count and epochs == list(range(1, len(epochs) + 1))
        command = out.splitlines()[-1].removeprefix("To resume: python ")
        script, *words = shlex.split(command)
        assert script.endswith("run.py") and words[-1] == f"resume={killed.info.run_id}"
        if signum == signal.SIGTERM:
            run = start(*words)


def test_a_signal_after_the_training_ends_the_run_as_killed(here: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenetexp.reporting.run_figures.draw_run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    here.train("epochs=1", pictures=True)
    (run,) = here.runs
    assert run.info.status == "KILLED" and run.data.metrics["test/accuracy"] >= 0
    assert here.artifacts(run, "checkpoints") == {"checkpoints/best.pt", "checkpoints/last.pt"}


def test_a_signal_is_heard_while_a_finished_run_waits_for_its_server(
    here: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server hangs at the very end; a cluster wants its machine back."""
    asked: list[float] = []

    def hang(*_: object) -> None:
        time.sleep(0.5)
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(25)

    here.monkeypatch.setattr(Recorder, "terminate", hang)
    here.train("epochs=1")
    assert time.monotonic() - asked[0] < 5
    assert "python scripts/sync.py folder=outputs/runs/0" in capsys.readouterr().out


# ---- full disks ----

Narrow = tuple[Path, Callable[[Started], Any], Callable[[], Any]]


@pytest.fixture(params=["limit", pytest.param("tmpfs", marks=pytest.mark.slow)])
def narrow(request: Any, tmp_path: Path) -> Iterator[Narrow]:
    """A folder; what fills it up during a run; what makes room again."""
    cwd = tmp_path / "disk"
    cwd.mkdir()
    if request.param == "limit":

        def limit(run: Started) -> None:
            psutil.Process(run.pid).rlimit(psutil.RLIMIT_FSIZE, (2000, 2000))

        yield cwd, limit, lambda: None
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(cwd)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")

    def fill(run: Started) -> None:
        with suppress(OSError), (cwd / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    yield cwd, fill, (cwd / "filler").unlink
    subprocess.run(["umount", "-l", str(cwd)], check=True)


def test_a_full_disk_is_one_sentence_and_with_room_the_run_resumes(
    narrow: Narrow, start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cwd, fill, make_room = narrow
    run = start(*LONG, cwd=cwd)
    wait_for_epochs(run, cwd, 3)
    fill(run)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert errors.startswith("error: ") and len(errors.splitlines()) == 1
    assert "cannot be written" in errors and ("No space left" in errors or "too large" in errors), errors
    (folder,) = cwd.glob("outputs/runs/*")
    saved = load_checkpoint(folder / "checkpoints/last.pt")["history"]
    load_checkpoint(folder / "checkpoints/best.pt")
    assert len(saved) >= 2
    make_room()
    monkeypatch.chdir(cwd)
    store = InProcess(cwd, monkeypatch=monkeypatch)
    store.train("epochs=4000", "resume=true", stop_after=len(saved) + 2)
    assert f"after epoch {len(saved)} of run" in capsys.readouterr().out
    (resumed,) = store.runs
    assert resumed.info.status == "KILLED"
    assert store.epochs(resumed) == list(range(1, len(saved) + 3))
    assert store.history(resumed, "val/loss")[: len(saved)] == [(r["epoch"], r["val_loss"]) for r in saved]


RARE = [pytest.param(at, marks=pytest.mark.slow) for at in ("result", "files")]


@pytest.mark.parametrize("at", ["created", "epoch", "end", *RARE])
def test_a_disk_that_is_full_at_any_line_leaves_no_run_running(here: InProcess, at: str) -> None:
    """The store lies elsewhere and still answers."""
    add = Journal.add

    def full(self: Journal, event: AnyEvent) -> None:
        if event.event == at:
            raise UserError("journal.jsonl cannot be written (No space left on device)")
        add(self, event)

    here.monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(UserError, match="No space left on device"):
        here.train("epochs=1")
    assert [run.info.status for run in here.runs] == ["FAILED"]
