"""Fixtures that tests of several packages share."""

import os

# Before torch is imported: two threads in each of two processes on two cores get in each other's way.
os.environ["OMP_NUM_THREADS"] = "1"

import io
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from mlflow import MlflowClient

from helpers import MNIST, PROJECT, Command, Done, InProcess, Server, Started, in_process, kill, run_script, start_run
from lenetexp.tracking import process
from needs import CHROMIUM, read_required, report_missing

# What takes longest begins first, so that no worker is left alone with it at the end.
FIRST = (
    "sweeps/test_interrupted.py", "sweeps/test_scaling.py", "runs/test_resume.py", "runs/test_run.py",
    "page/test_in_browser.py", "page/test_server.py", "sweeps/test_grid.py", "serving/test_register.py",
    "sweeps/test_report.py", "runs/test_interrupt.py", "test_cli.py",
)  # fmt: skip


def pytest_configure() -> None:
    """A word of LENETEXP_REQUIRE that means nothing must not pass for a requirement."""
    read_required()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of FIRST, then the others as they are."""
    place = {f"tests/{name}": number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


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
    file = MNIST / "MNIST/raw/train-images-idx3-ubyte"
    if not file.exists():
        report_missing("mnist", f"there is no {file}; LENETEXP_MNIST=FOLDER names another folder")
    return MNIST


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program's path."""
    return CHROMIUM or report_missing("browser", "Chromium is not installed")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a script in an empty folder of its own: command("run", "epochs=1")."""

    def call(script: str, *arguments: str, timeout: float = 120) -> Done:
        return run_script(script, *arguments, cwd=tmp_path, timeout=timeout)

    return call


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """As `command`, but within this process, which is much faster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "start", lambda _: None)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(script: str, *arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        GlobalHydra.instance().clear()
        out, errors, code = io.StringIO(), io.StringIO(), 0
        with redirect_stdout(out), redirect_stderr(errors):
            try:
                runpy.run_path(str(PROJECT / "scripts" / f"{script}.py"), run_name="__main__")
            except SystemExit as end:  # Python prints a sentence and exits with 1
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
                print(end.code if isinstance(end.code, str) else "", file=errors)
        return Done([script, *arguments], code, out.getvalue(), errors.getvalue())

    return call


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts `python scripts/run.py …`; what still runs at the end of the test is killed."""
    started: list[Started] = []

    def call(*arguments: str, cwd: Path = tmp_path) -> Started:
        started.append(start_run(*arguments, cwd=cwd))
        return started[-1]

    yield call
    for run in started:
        if run.poll() is None:
            kill(run)


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
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> InProcess:
    """A folder with one finished run that knows digits; tests may use it, but train nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        store = in_process(tmp_path_factory.mktemp("trained"), patch, empty_store)
        store.train("epochs=8")
        return store


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real MLflow server that runs as long as the tests."""
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
