"""Hydra's own test suites for launchers, as Hydra ships them, and what the local launcher promises beyond them."""

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
import pytest
from hydra import compose, initialize
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.types import HydraContext
from hydra.version import VersionBase
from omegaconf import DictConfig

from lenetexp.config.schema import SHARED_THREADS, THREAD_VARIABLES
from lenetexp.errors import UserError
from lenetexp.runs.interrupt import Interruption, raised


@pytest.fixture(autouse=True)
def no_version_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra keeps the one that an earlier test of this process asked for."""
    monkeypatch.delitem(Singleton._instances, VersionBase, raising=False)


# One process each: how jobs share several is tested below.
@pytest.mark.parametrize(("launcher_name", "overrides"), [("local", ["hydra.launcher.n_jobs=1"])])
class TestHydrasLauncherSuite(LauncherTestSuite):
    pass


@pytest.mark.parametrize(("launcher_name", "overrides"), [("local", ["hydra.sweeper.max_batch_size=2"])])
class TestHydrasBatchSuite(BatchedSweeperTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=local"])])
class TestHydrasIntegrationSuite(IntegrationTestSuite):
    pass


def local(task: Any, *overrides: str) -> Any:
    """The launcher as an application that knows nothing of lenetexp gets it."""
    with initialize(version_base=None, config_path=None):
        config = compose(overrides=["hydra/launcher=local", *overrides], return_hydra_config=True)
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
        return Plugins.instance().instantiate_launcher(context, task, config)


class OfTwoThings(Exception):
    """Can be pickled, but not created again."""

    def __init__(self, one: object, other: object) -> None:
        super().__init__(f"{one} and {other}")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, JobReturn]:
    """What became of jobs that did as they were told, in two processes."""

    def task(config: DictConfig) -> Any:
        match config.do:
            case "be killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise OfTwoThings("this", "that")
            case "exit":
                sys.exit(3)
            case "be slow":
                time.sleep(0.5)
            case "return a lock":
                return Lock()
        return config.do

    launcher = local(task, "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path_factory.mktemp('sweep')}")
    jobs = ["be slow", "be killed", "raise", "exit", "return a lock", "just return"]
    returned = launcher.launch([[f"+do='{job}'"] for job in jobs], initial_job_idx=5)
    return dict(zip(jobs, returned, strict=True))


def test_results_come_back_in_the_order_of_the_jobs(results: dict[str, JobReturn]) -> None:
    assert [result.overrides for result in results.values()] == [[f"+do='{job}'"] for job in results]
    assert results["be slow"].return_value == "be slow" and results["just return"].return_value == "just return"
    configs = [result.hydra_cfg for result in results.values()]
    assert [config and config.hydra.job.num for config in configs] == [5, None, 7, None, 9, 10]


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("be killed", "its process died"),
        ("raise", "OfTwoThings: this and that"),
        ("exit", r"SystemExit\(3\)"),
        ("return a lock", "return value cannot be pickled: lock"),
    ],
)
def test_a_failed_job_says_why(results: dict[str, JobReturn], job: str, reason: str) -> None:
    assert results[job].status == JobStatus.FAILED
    with pytest.raises(UserError, match=reason):
        _ = results[job].return_value


def test_an_error_shows_where_the_job_raised_it(results: dict[str, JobReturn]) -> None:
    assert 'raise OfTwoThings("this", "that")' in results["raise"]._return_value.__notes__[0]


def test_a_process_that_dies_while_it_is_idle_is_replaced(tmp_path: Path) -> None:
    warm_up = "hydra.launcher.warm_up=faulthandler.enable"
    launcher = local(lambda _: faulthandler.is_enabled(), f"hydra.sweep.dir={tmp_path}", warm_up)
    with launcher.start_workers(at_most=1):
        launcher.workers[0].process.kill()
        (result,) = launcher.launch([[]], 0)
    assert result.return_value, "the new process was warmed up, too"


def test_a_sweep_whose_processes_cannot_start_ends(tmp_path: Path) -> None:
    launcher = local(print, f"hydra.sweep.dir={tmp_path}", "hydra.launcher.warm_up=os.abort")
    with pytest.raises(UserError, match="its processes die before they can run a job"):
        launcher.launch([[]], 0)


APPLICATION = """
import signal, sys, time
from pathlib import Path
import hydra

@hydra.main(version_base=None, config_path=None)
def main(config):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path("saved").touch()))
    Path("running").touch()
    time.sleep(60)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_running_jobs_may_save_their_state_when_the_sweep_ends(tmp_path: Path, signum: int, code: int) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    words = ["app.py", "-m", "hydra/launcher=local", "hydra.launcher.n_jobs=2", "+a=1,2,3"]
    sweep = subprocess.Popen([sys.executable, *words], cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)
    while not (tmp_path / "running").exists() and sweep.poll() is None:
        time.sleep(0.05)
    processes = psutil.Process(sweep.pid).children(recursive=True)
    os.killpg(sweep.pid, signum)  # as Ctrl-C in a terminal does
    assert sweep.wait(20) == code
    psutil.wait_procs(processes, timeout=5)
    assert (tmp_path / "saved").exists() and not any(process.is_running() for process in processes)


@pytest.mark.parametrize("setting", ["n_jobs=0", "n_jobs=-1", "n_jobs=1.5", "n_jobs=true", "per_gpu=0", "per_gpu=null"])
def test_numbers_that_make_no_sense_are_refused(setting: str) -> None:
    key, value = setting.split("=")
    with pytest.raises(UserError, match=rf"hydra\.launcher\.{key}=.*: must be a whole number, 1 or more"):
        local(print, f"hydra.launcher.{key}={value}")


def test_a_signal_while_the_processes_start_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = local(print, f"hydra.sweep.dir={tmp_path}", "hydra.launcher.n_jobs=2")
    worker_class = sys.modules[type(launcher).__module__].Worker  # Hydra imports plugins anew
    start = worker_class._start

    def start_and_interrupt(worker: Any) -> None:
        start(worker)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(worker_class, "_start", start_and_interrupt)
    with raised(), pytest.raises(Interruption), launcher.start_workers(at_most=2):
        raise AssertionError("the sweep goes on")
    assert not launcher.workers and not multiprocessing.active_children()


def shares(monkeypatch: pytest.MonkeyPatch, gpus: str, *settings: str, **by_user: str) -> list[dict[str, str]]:
    for name in (*THREAD_VARIABLES, SHARED_THREADS):
        monkeypatch.delenv(name, raising=False)
    for name, value in by_user.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    return local(print, *(f"hydra.launcher.{setting}" for setting in settings)).build_environments()


def test_jobs_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shares(monkeypatch, "") == [dict.fromkeys((*THREAD_VARIABLES, SHARED_THREADS), "1")] * 8
    assert [share["OMP_NUM_THREADS"] for share in shares(monkeypatch, "", "n_jobs=2")] == ["4", "4"]
    spread = shares(monkeypatch, "3,5", "device=auto", "per_gpu=2")
    assert [share["CUDA_VISIBLE_DEVICES"] for share in spread] == ["3", "5", "3", "5"]
    assert len(shares(monkeypatch, "3,5", "device=cpu")) == 8


@pytest.mark.parametrize("name", THREAD_VARIABLES)
def test_a_number_of_threads_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert shares(monkeypatch, "", "n_jobs=1", **{name: "1"}) == [{}]
