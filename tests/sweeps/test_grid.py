"""A sweep: one failed run takes no other along, resume=true runs only what is missing, no mistake starts a job."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from mlflow.entities import Run

from helpers import PROJECT, Command, Done, InProcess, Started, Store, all_gone, composed, family, run_script
from lenetexp.config.commands import CompareConfig
from lenetexp.config.schema import check_config
from lenetexp.sweeps.compare import compare

# A custom net that does what its setting says, after some training.
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
SWEEP = ["-m", "experiment=smoke", "model._target_=mine.Net", "+model.how=ok,raise,diverge,kill"]


class Swept(Store):
    """A sweep that ran, and what it printed."""

    def __init__(self, cwd: Path, *words: str) -> None:
        super().__init__(cwd)
        self.done: Done = run_script("run", *words, cwd=cwd, timeout=300)
        (self.folder,) = cwd.glob("outputs/sweeps/*")
        self.statuses = {how_of(run): run.info.status for run in self.children}


def how_of(run: Run) -> str:
    return str(run.data.tags["swept.model.how"])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Four runs, of which one raises, one diverges and one kills its process."""
    cwd = tmp_path_factory.mktemp("sweep")
    (cwd / "mine.py").write_text(MINE)
    return Swept(cwd, *SWEEP)


@pytest.fixture(scope="module")
def again(first: Swept) -> Swept:
    """The same command with resume=true."""
    return Swept(first.cwd, *SWEEP, "resume=true")


def test_a_run_that_fails_takes_no_other_along(first: Swept) -> None:
    assert first.statuses == {"ok": "FINISHED", "raise": "FAILED", "diverge": "FINISHED", "kill": "KILLED"}
    assert first.done.returncode == 1
    assert first.done.stderr.strip() == "error: 2 of 4 runs failed; resume=true runs only those again"


def test_the_table_says_what_became_of_every_run(first: Swept) -> None:
    text = (first.folder / "table.txt").read_text()
    for reason in (
        "how=raise: RuntimeError: a fault of two lines",
        "how=kill: its process died",
        "how=diverge: the loss stopped being finite in epoch",
    ):
        assert text.count(reason) == 1
    assert text in first.done.stdout and "1 diverged, 1 failed, 1 finished, 1 killed" in first.done.stdout
    assert len((first.folder / "table.csv").read_text().splitlines()) == 5


def test_the_record_nests_the_runs_below_their_sweep(first: Swept) -> None:
    (sweep,) = first.sweeps
    for run in first.children:
        assert run.data.tags["mlflow.parentRunId"] == sweep.info.run_id
        assert run.data.params["model.how"] == how_of(run) and run.info.run_name == f"how={how_of(run)}"
    assert first.artifacts(sweep) == {"sweep.json", "table.txt", "table.csv", "figures", "report.html"}
    assert first.artifacts(sweep, "figures") == {"figures/accuracy.png", "figures/learning_curves.png"}
    assert (first.folder / "table.txt").read_text().strip() in sweep.data.tags["mlflow.note.content"]
    assert not any(run.info.status == "RUNNING" for run in first.runs)


def test_each_run_has_a_log_of_its_own(first: Swept) -> None:
    logs = [path.read_text() for path in first.folder.glob("*/log.txt")]
    assert len(logs) == 4 and all("61,706 parameters" in log for log in logs)
    assert len([log for log in logs if "Traceback" in log and "a fault" in log]) == 1
    assert "Traceback" not in first.done.stdout + first.done.stderr


def test_resume_runs_only_what_is_not_finished(again: Swept) -> None:
    assert "2 of 4 runs finished already, not run again" in again.done.stdout
    assert sorted(map(how_of, again.children)) == ["diverge", "kill", "ok", "raise"], "in the same runs as before"
    for run in again.children:
        assert again.epochs(run) == ([1, 2] if how_of(run) == "ok" else [1])
    logs = [path.read_text().count("resumes  after epoch 1 of run") for path in again.folder.glob("*/log.txt")]
    assert sorted(logs) == [0, 0, 1, 1]
    assert len(again.sweeps) == 1, "the sweep is resumed, not started anew"
    assert not any(run.info.status == "RUNNING" for run in again.runs)


def test_compare_gives_the_same_table_from_mlflow_alone(
    again: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compared(*words: str) -> str:
        values = composed(f"tracking.uri={again.uri}", *words, name="compare")
        compare(check_config(CompareConfig, values), values, tmp_path)
        return capsys.readouterr().out

    table = (again.folder / "table.txt").read_text()
    assert table.count("\n") >= 8
    assert table in compared("which=latest") and table in compared(f"which={again.sweeps[0].info.run_id}")
    out = compared("runs='tags.`swept.model.how` != \"raise\"'")
    assert "  how  " in out and "1 diverged, 1 finished, 1 killed" in out and "raise" not in out


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
        (["seed=1,2", "tracking.offline=true"], "tracking.offline=true: must be false for a sweep"),
        (["optimizer.lr=0.1,"], "optimizer.lr=0.1,: must have a value on both sides of each comma and no space"),
        (["seed=1,,2"], "seed=1,,2: must have a value on both sides of each comma and no space"),
        (["seed=,2"], "seed=,2: must have a value on both sides of each comma and no space"),
        (["optimizer.lr=0.1, 0.01", "seed=range(0)"], "seed=range(0): must give a value"),
        (["seed=1,2", "resume=4d1f"], "resume=4d1f: must be true or false for a sweep"),
        ([], "-m: must be given values"),
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: must be given a space"),
        (
            ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=abc", "tracking.uri=choice(http://a,http://b)"],
            "hydra.sweeper.n_trials=abc: must be a whole number",
        ),
        (["hydra/sweeper=optuna", "optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: must be a number above 0"),
    ],
)
def test_every_config_is_checked_before_the_first_run(
    arguments: list[str], said: str, typed: Command, tmp_path: Path
) -> None:
    done = typed("run", "-m", *arguments)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


LONG = ["-m", "experiment=smoke", "epochs=30", "seed=0,1,2,3", "hydra.launcher.n_jobs=2"]


STOPPED_EARLY = "Stopped before the first run; nothing was trained.\n"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_ends_while_it_starts_leaves_no_process(start: Callable[..., Started], signum: int) -> None:
    started = start(*LONG)
    deadline = time.monotonic() + 60
    while len(children := family(started)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signum)
    out, _ = started.communicate(timeout=30)
    assert len(children) >= 2 and all_gone(children, within=20)
    if signum == signal.SIGTERM:
        assert (started.returncode, out) == (143, STOPPED_EARLY)


@pytest.mark.parametrize("when", ["configs checked", "of 2 processes ready", "at most"])
def test_ctrl_c_before_the_first_run_is_one_sentence(when: str, here: InProcess) -> None:
    """In a terminal, which shows what is waited for: the configs, the processes and the store, the processes alone."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, str(PROJECT / "scripts/run.py"), *LONG]
    sweep = subprocess.Popen(command, cwd=here.cwd, start_new_session=True, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    drawn, children, asked = b"", list[psutil.Process](), 0.0
    with suppress(OSError):  # how a terminal ends
        while piece := os.read(ours, 10_000):
            drawn += piece
            if not asked and when.encode() in drawn:
                asked, children = time.monotonic(), family(sweep)
                os.killpg(sweep.pid, signal.SIGINT)
    assert sweep.wait(10) == 130 and time.monotonic() - asked < 10
    assert drawn.decode().count(STOPPED_EARLY.strip()) == 1 and b"Traceback" not in drawn
    assert all_gone(children, within=5)
    if when == "at most":  # the sweep's own record is there
        assert [run.info.status for run in here.runs] == ["KILLED"]


def test_ctrl_c_is_heard_whatever_a_library_makes_of_it(typed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        finally:
            raise AttributeError("half of a config")

    monkeypatch.setattr("lenetexp.sweeps.plan.check_config", interrupt)
    monkeypatch.setattr("lenetexp.cli.check_config", interrupt)
    for words, said in ((["-m", "seed=1,2"], STOPPED_EARLY), ([], "Stopped.\n")):
        done = typed("run", *words)
        assert (done.returncode, done.stdout) == (130, said) and "error" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="has such a device")
@pytest.mark.parametrize("words", [["device=cpu,cuda"], ["device=cuda", "seed=1,2"]])
def test_a_device_that_is_not_there_ends_a_sweep_before_its_first_run(typed: Command, words: list[str]) -> None:
    done = typed("run", "-m", "experiment=smoke", *words)
    assert done.returncode == 1 and "device=cuda: torch finds no such device" in done.stderr
    assert done.stdout == "" and not Path("outputs").exists()
