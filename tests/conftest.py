"""What the tests share: the command line as a user has it, and the real MNIST where it is there."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before torch is imported: two threads a process, in two processes on two cores, get in each other's way.
os.environ["OMP_NUM_THREADS"] = "1"

PROJECT = Path(__file__).resolve().parents[1]
MNIST = PROJECT.parent / "shared" / "data"

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """--kills: how often the slow tests of interruption kill each run; docs/reliability.md says 20."""
    parser.addoption("--kills", type=int, default=3)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """What --kills says."""
    return int(request.config.getoption("--kills"))


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds MNIST/raw with the published files."""
    if not (MNIST / "MNIST/raw/train-images-idx3-ubyte").exists():
        pytest.skip("the real MNIST is not at ../shared/data")
    return MNIST


def run_script(
    script: str, *arguments: str, cwd: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """`python scripts/<script>.py …` in `cwd`, as a user runs it."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / f"{script}.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        # The same machine for every test: one thread, no GPU.
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a script in an empty folder of its own: command("run", "epochs=1")."""

    def call(script: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return run_script(script, *arguments, cwd=tmp_path, timeout=timeout)

    return call


Started = subprocess.Popen[str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts `python scripts/run.py …` in a process group of its own, which ends with the test."""
    started: list[Started] = []

    def call(*arguments: str, cwd: Path = tmp_path) -> Started:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "scripts" / "run.py"), *arguments],
            cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A port of this machine that no one listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real `mlflow server` on this machine, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
             "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
             "--artifacts-destination", str(self.folder / "artifacts")],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                return
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.5)
        raise AssertionError("the server does not answer within a minute")

    def stop(self) -> None:
        """Ends it at once."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that runs as long as the tests."""
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
