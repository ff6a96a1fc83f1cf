"""Fixtures that tests of several packages share."""

import os

# Before torch is imported: two threads in each of two processes on two cores get in each other's way.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers import MNIST, Command, Done, InProcess, Server, Started, in_process, kill, run_script, start_run


def pytest_addoption(parser: pytest.Parser) -> None:
    """--kills: how often the slow tests of interruption kill each run; docs/reliability.md says 20."""
    parser.addoption("--kills", type=int, default=3)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """The value of --kills."""
    return int(request.config.getoption("--kills"))


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds MNIST/raw with the published files."""
    if not (MNIST / "MNIST/raw/train-images-idx3-ubyte").exists():
        pytest.skip("the real MNIST is not at ../shared/data")
    return MNIST


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a script in an empty folder of its own: command("run", "epochs=1")."""

    def call(script: str, *arguments: str, timeout: float = 120) -> Done:
        return run_script(script, *arguments, cwd=tmp_path, timeout=timeout)

    return call


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts `python scripts/run.py …`; what still runs at the end of the test is killed."""
    started: list[Started] = []

    def call(*arguments: str, cwd: Path = tmp_path) -> Started:
        started.append(start_run(*arguments, cwd=cwd))
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            kill(process)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store: creating one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> InProcess:
    """Runs within this process, with a store of their own."""
    return in_process(tmp_path, monkeypatch, empty_store)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real MLflow server that runs as long as the tests."""
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
