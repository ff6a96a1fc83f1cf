"""A single run leaves MLflow to another process, which does what it is asked to and does not outlive the run."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from helpers import PROJECT, Started, Store, family, kill, wait_for_epochs
from lenetexp.errors import UserError
from lenetexp.tracking import process
from lenetexp.tracking.store import RefusalError


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """The process that answers."""
    monkeypatch.setattr(process, "_process", None)
    monkeypatch.setenv(
        "PYTHONPATH", f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"
    )  # the functions below are called there
    process.start(["epochs=1"])
    assert process._process is not None
    yield psutil.Process(process._process.pid)
    process._process.kill()
    process._process.wait()


def refuse(what: str) -> None:
    raise RefusalError(f"{what} is refused")


def say_something() -> str:
    print("not an answer")
    return "an answer"


def test_a_call_returns_and_raises_what_the_function_does(
    other: psutil.Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert process.call(os.getpid) == other.pid != os.getpid()
    assert process.call(say_something) == "an answer"
    with pytest.raises(RefusalError, match="a tag is refused"):
        process.call(refuse, "a tag")
    with pytest.raises(UserError, match=r"FileNotFoundError.*no-such-folder"):
        process.call(os.listdir, "no-such-folder")
    monkeypatch.chdir(tmp_path)
    assert process.call(os.getcwd) == str(tmp_path), "a store's path is relative to the run's folder"


def test_an_answer_that_nobody_waited_for_is_no_later_calls_answer(
    other: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.call(os.getpid)
    answered = process.pickle.load  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:

        def interrupted(_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(process.pickle, "load", interrupted)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            process.call(str, "of the first call")
    assert process.pickle.load is answered  # type: ignore[attr-defined]
    assert process.call(str, "of the second call") == "of the second call"


def test_it_hears_no_signals_and_ends_with_the_process_that_it_serves(other: psutil.Process) -> None:
    """Also in the middle of a call: a server may hang."""
    process.call(os.getpid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        other.send_signal(number)
    assert process.call(os.getpid) == other.pid
    assert process._process is not None and process._process.stdin is not None
    process._process.stdin.write(process.pickle.dumps((0, Path.cwd(), time.sleep, (60,), {})))  # type: ignore[attr-defined]
    process._process.stdin.close()
    assert process._process.wait(5) == 0


def test_if_it_is_killed_calls_are_one_sentence(other: psutil.Process) -> None:
    other.kill()
    for _ in range(2):
        with pytest.raises(UserError, match="MLflow's process is gone"):
            process.call(os.getpid)


@pytest.mark.parametrize("words", [["--help"], ["-m", "seed=1,2"], ["sweep=lr"], ["resume=true"], ["--cfg", "job"]])
def test_other_commands_have_none(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_process", None)
    process.start(words)
    assert process._process is None


def test_a_run_goes_on_without_it_and_leaves_nothing_behind(start: Callable[..., Started], tmp_path: Path) -> None:
    run = start("experiment=smoke", "epochs=40")
    wait_for_epochs(run, tmp_path, 3)
    (other,) = family(run)
    assert "libtorch" not in " ".join(part.path for part in other.memory_maps())
    assert "sqlalchemy" not in " ".join(part.path for part in psutil.Process(run.pid).memory_maps())
    other.kill()
    out, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (0, "")
    said = " ".join(out.split())
    assert said.count("note: MLflow's process is gone; it may have been killed; what is missing there is kept") == 1
    assert "MLflow is still missing something; when it answers: python scripts/sync.py folder=" in said
    (left,) = Store(tmp_path).runs
    assert left.info.status == "RUNNING", "until sync.py or resume finds that its process is gone"


def test_it_is_gone_when_its_run_is_killed(start: Callable[..., Started], tmp_path: Path) -> None:
    run = start("experiment=smoke", "epochs=200")
    wait_for_epochs(run, tmp_path, 1)
    (other,) = family(run)
    kill(run)
    other.wait(5)
