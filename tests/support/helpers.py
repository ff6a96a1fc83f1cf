"""What tests share: commands as a user runs them, what they leave in MLflow, easy images, a plain LeNet."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

import lenetexp.cli  # noqa: F401  (its resolver is part of the config)
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.datasets.splits import Data, Split
from lenetexp.reporting.terminal import Progress
from lenetexp.runs import experiment
from lenetexp.runs.interrupt import Interruption
from lenetexp.tracking.journal import Epoch, JournalReader
from lenetexp.training.state import EpochRecord

PROJECT = Path(__file__).resolve().parents[2]
MNIST = Path(os.environ.get("LENETEXP_MNIST") or PROJECT.parent / "shared/data").resolve()
CONF = PROJECT / "conf"
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "local") and not path.stem.startswith("_")
)

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]
Started = subprocess.Popen[str]

# What a run draws.
PICTURES = (
    "confusion_matrix.png", "filters.png", "inside.png", "learning.gif", "learning_curves.png", "mistakes.png"
)  # fmt: skip
FIGURES = {f"figures/{name}" for name in PICTURES}

# The same machine for every test: one thread, no GPU.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_script(script: str, *arguments: str, cwd: Path, timeout: float = 120) -> Done:
    """`python scripts/<script>.py …` in `cwd`, as a user runs it."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / f"{script}.py"), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip


def start_run(*arguments: str, cwd: Path) -> Started:
    """`python scripts/run.py …` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts" / "run.py"), *arguments],
        cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip


def kill(run: Started) -> None:
    """Ends a run and all its processes at once."""
    os.killpg(run.pid, signal.SIGKILL)
    run.wait(20)


def composed(*overrides: str, name: str = "config", conf: Path = CONF) -> dict[str, Any]:
    """What a command line composes to, as plain dicts and lists; without this machine's own settings."""
    return deepcopy(_composed(overrides, name, conf) if conf == CONF else _composed.__wrapped__(overrides, name, conf))


@cache
def _composed(overrides: tuple[str, ...], name: str, conf: Path) -> dict[str, Any]:
    """It takes a tenth of a second."""
    local = ["~local"] if conf == CONF else []
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        values = compose(name, overrides=[*local, *overrides])
    return OmegaConf.to_container(values, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


@dataclass
class Store:
    """What runs left in an MLflow store; by default the one in a working folder."""

    cwd: Path
    uri: str = ""
    experiment: str = "lenetexp"

    def __post_init__(self) -> None:
        self.uri = self.uri or f"sqlite:///{self.cwd}/outputs/mlflow.db"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        found = self.client.get_experiment_by_name(self.experiment)
        return list(self.client.search_runs([found.experiment_id]))

    @property
    def sweeps(self) -> list[Run]:
        return [run for run in self.runs if "lenetexp.sweep" in run.data.tags]

    @property
    def children(self) -> list[Run]:
        return [run for run in self.runs if "mlflow.parentRunId" in run.data.tags]

    def history(self, run: Run, key: str) -> list[tuple[int, float]]:
        """A metric's values by step."""
        return [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, key)]

    def epochs(self, run: Run) -> list[int]:
        return [step for step, _ in self.history(run, "val/loss")]

    def artifacts(self, run: Run, path: str | None = None) -> set[str]:
        return {entry.path for entry in self.client.list_artifacts(run.info.run_id, path)}


@dataclass
class InProcess(Store):
    """Runs within the test's own process, in a folder of their own."""

    monkeypatch: pytest.MonkeyPatch | None = None

    def train(
        self, *words: str, stop_after: int | None = None, recipe: Sequence[str] = ("experiment=smoke",),
        pictures: bool = False,
    ) -> None:  # fmt: skip
        """A run; if it should stop after an epoch, a SIGTERM comes then. Pictures would be most of its time."""
        assert self.monkeypatch is not None
        values = composed(*recipe, "device=cpu", *words)
        # MLflow keeps a relative store's file open from one folder to the next.
        values["tracking"].update(uri=self.uri, experiment=self.experiment)
        values["overrides"] = [*recipe, *words]
        epoch = Progress.print_epoch

        def and_stop(progress: Progress, record: EpochRecord) -> None:
            epoch(progress, record)
            if record.epoch == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)

        with self.monkeypatch.context() as patched:
            patched.setattr(Progress, "print_epoch", and_stop)
            if not pictures:
                patched.setattr(experiment, "try_draw", lambda _: True)
            folder = Path(f"outputs/runs/{len(list(Path().glob('outputs/runs/*')))}")
            with suppress(Interruption):
                experiment.run(check_config(RunConfig, values), values, folder)


def in_process(folder: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> InProcess:
    """Moves to an empty folder and gives it a store of its own."""
    monkeypatch.chdir(folder)
    (folder / "outputs").mkdir()
    shutil.copy(empty_store, folder / "outputs/mlflow.db")
    return InProcess(folder, monkeypatch=monkeypatch)


def journals(cwd: Path, place: str = "runs/*") -> list[JournalReader]:
    """The journals of runs below a working folder, the newest last."""
    paths = sorted(cwd.glob(f"outputs/{place}/journal.jsonl"), key=lambda path: path.stat().st_mtime)
    return [JournalReader(path.parent) for path in paths]


def wait_for_epochs(run: Started, cwd: Path, count: int) -> None:
    """Until the newest run has finished so many epochs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (found := journals(cwd)) and len(found[-1].select(Epoch)) >= count:
            return
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    raise AssertionError(f"no {count} epochs within two minutes")


def wait_for_runs(started: Started, cwd: Path, count: int, ended: int) -> None:
    """Until so many of a sweep's runs have finished an epoch and so many have ended."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        begun = [reader for reader in journals(cwd, "sweeps/*/*") if reader.select(Epoch)]
        if len(begun) >= count and sum(reader.end is not None for reader in begun) >= ended:
            return
        assert started.poll() is None, started.communicate()
        time.sleep(0.2)
    raise AssertionError("no such state within 200 s")


def family(process: Started) -> list[psutil.Process]:
    """All processes that it started."""
    return psutil.Process(process.pid).children(recursive=True)


def all_gone(processes: Sequence[psutil.Process], within: float) -> bool:
    """Whether all end within so many seconds."""
    return not psutil.wait_procs(processes, timeout=within)[1]


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert list(one) == list(other) and one
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def make_data(count: int = 150, seed: int = 0) -> Data:
    """Easy images: a bright row tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    images = torch.randint(0, 60, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), 0, labels * 2 + 4] = 250
    split = Split(images, labels)
    return Data("rows", split, split, split, tuple("0123456789"), False, "digest")


class PlainLeNet(nn.Module):
    """The seven layers as someone else would write them, with c5 as a plain convolution."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.sigmoid, pool: type = nn.AvgPool2d) -> None:
        super().__init__()
        self.activation = activation
        self.c1 = nn.Conv2d(1, 6, 5, padding=2)
        self.s2 = pool(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.s4 = pool(2)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s2(self.activation(self.c1(x)))
        x = self.s4(self.activation(self.c3(x)))
        return self.output(self.f6(self.c5(x).flatten(1)))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real `mlflow server` on this machine, which can be stopped and started again."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self.folder, self.port = folder, free_port()
        self.database = database or f"sqlite:///{folder}/server.db"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
             "--workers", "1", "--backend-store-uri", self.database,
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


def make_pictures(folder: Path) -> None:
    """Four dark and four light pictures, in a folder for each of the two classes."""
    for i in range(8):
        file = folder / ("dark", "light")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), (20, 220)[i % 2] + i).save(file)
