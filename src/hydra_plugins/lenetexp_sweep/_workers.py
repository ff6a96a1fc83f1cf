"""The processes of the local launcher: one job at a time each, kept warm, replaced when one dies."""

import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, env_override, run_job, setup_globals
from joblib import cpu_count
from omegaconf import open_dict

from lenetexp.config import UserError
from lenetexp.interrupt import Interrupted, noted

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.launcher import LocalLauncher

# Seconds that jobs have to end by themselves once they were asked to.
GRACE = 10.0

# Processes that may die before one gets a job going: the machine is out of memory, or there is no hope.
TRIES = 3

LEFT_BEHIND = "ignore:resource_tracker:UserWarning"

Overrides = Sequence[str]


class Worker:
    """One process and the job that it has. Its own pool of one: when it dies, no other is touched."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.job: tuple[int, Overrides, Future[JobReturn]] | None = None
        self._start()

    def _start(self) -> None:
        # Spawned, not forked: a fork of a process with threads may hang, and CUDA does not survive it.
        spawn = multiprocessing.get_context("spawn")
        with env_override(self.environment), _deaf_to_ctrl_c():
            self.pool = ProcessPoolExecutor(
                1, mp_context=spawn, initializer=_prepare, initargs=(os.getpid(),)
            )
            self.pid: Future[int] = self.pool.submit(os.getpid)
        with suppress(BrokenProcessPool):  # told when it is given a job
            self.pool.submit(_warm_up)

    def give(self, launcher: "LocalLauncher", number: int, overrides: Overrides) -> None:
        """Lets the process run a job."""
        # cloudpickle, for the function lives in the script that the user started.
        context = (launcher.hydra_context, launcher.task_function, launcher.config, Singleton.get_state())
        pickled = cloudpickle.dumps(context)
        future: Future[JobReturn] = Future()
        for _ in range(TRIES):
            try:
                future = self.pool.submit(_execute, pickled, number, list(overrides))
                break
            except BrokenProcessPool:  # it died while it had nothing to do
                self.pool.shutdown(wait=False)
                self._start()
        else:
            future.set_result(_failed(overrides, f"{TRIES} processes died before they began"))
        self.job = (number, overrides, future)

    def take(self) -> tuple[int, JobReturn]:
        """The result of the job that is done; where the process died, another is started."""
        assert self.job is not None
        number, overrides, future = self.job
        self.job = None
        try:
            return number, future.result()
        except BrokenProcessPool:
            self.pool.shutdown(wait=False)
            self._start()
            return number, _failed(overrides, "its process died (killed, or out of memory)")
        except Exception as error:  # what could not be handed over
            return number, _failed(overrides, f"{type(error).__name__}: {error}")

    def ask_to_end(self) -> None:
        """SIGTERM to the process: the job saves its state and ends."""
        with suppress(ProcessLookupError, BrokenProcessPool, TimeoutError):
            os.kill(self.pid.result(timeout=GRACE), signal.SIGTERM)

    def close(self) -> None:
        """Ends the process at once: it has nothing left to do that would be worth a second's wait."""
        with suppress(ProcessLookupError, BrokenProcessPool, TimeoutError):
            os.kill(self.pid.result(timeout=GRACE), signal.SIGKILL)
        self.pool.shutdown(cancel_futures=True)


def start(launcher: "LocalLauncher", at_most: int) -> list[Worker]:
    """As many workers as this machine and the launcher's settings say, and not more than `at_most`."""
    return [Worker(environment) for environment in _places(launcher)[:at_most]]


def run(
    launcher: "LocalLauncher",
    workers: Sequence[Worker],
    jobs: Iterator[Overrides],
    take: Callable[[int, JobReturn], None],
    first: int,
) -> None:
    """Runs what `jobs` gives on all workers; see `LocalLauncher.stream`.

    Raises:
        Interrupted: SIGINT or SIGTERM came; it was passed on, and the jobs have ended.
    """
    setup_globals()
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    numbered = enumerate(jobs, first)
    more = True
    with noted() as stop_if_asked:
        try:
            while True:
                for worker in workers:
                    if worker.job is None and more:
                        number, overrides = next(numbered, (first, None))
                        if overrides is None:
                            more = False
                        else:
                            worker.give(launcher, number, overrides)
                running = [worker for worker in workers if worker.job is not None]
                if not running:
                    return
                wait([w.job[2] for w in running if w.job], timeout=0.2, return_when=FIRST_COMPLETED)
                stop_if_asked()
                for worker in running:
                    if worker.job is not None and worker.job[2].done():
                        take(*worker.take())
        except (Exception, Interrupted):
            # Whatever it is, what runs is not lost.
            running = [worker for worker in workers if worker.job is not None]
            for worker in running:
                worker.ask_to_end()
            wait([w.job[2] for w in running if w.job], timeout=GRACE)
            raise


def _places(launcher: "LocalLauncher") -> list[dict[str, str]]:
    """For each job that may run at a time, the environment that gives it its share of the machine."""
    gpus = _gpus() if launcher.config.device.get("name") in ("auto", "cuda") else []
    cores = cpu_count()  # that this process may use, a container's share counted
    count = launcher.n_jobs or (len(gpus) * launcher.per_gpu if gpus else cores)
    threads = max(cores // count, 1)
    places = []
    for i in range(count):
        place = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        # Python warns of what a killed process could not tidy up; it is tidied up all the same.
        place["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), LEFT_BEHIND]))
        if gpus:
            place["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
        places.append(place)
    return places


def _gpus() -> list[str]:
    """The CUDA devices that this process may use, without a second of importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(x for x in listed.splitlines() if x.startswith("GPU "))]


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started here does not hear Ctrl-C, not even while Python itself starts in it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _failed(overrides: Overrides, reason: str) -> JobReturn:
    result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    result.return_value = UserError(reason)
    return result


# What follows runs in the processes.

_busy = threading.Event()


def _prepare(parent: int) -> None:
    """Ctrl-C is for the parent, which passes it on; a process whose parent is gone ends, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(AttributeError, OSError):
        os.setpgid(0, 0)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    if _busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)  # as a cluster would: the run saves its state
        deadline = time.monotonic() + GRACE
        while _busy.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
    os._exit(1)


def _warm_up() -> None:
    """Imports what jobs need while the parent does other things."""
    import lenetexp.experiment
    import lenetexp.figures  # noqa: F401
    from lenetexp import tracking

    tracking.warm_up()
    # What was imported stays: looking through it for garbage would cost every job half a second. What a job
    # leaves in cycles is little: it is looked for seldom.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _execute(context: bytes, number: int, overrides: list[str]) -> JobReturn:
    """Runs one job as Hydra's own launchers do; an interrupted one is a failed one."""
    _busy.set()
    hydra_context, task_function, config, state = cloudpickle.loads(context)
    try:
        setup_globals()
        Singleton.set_state(state)
        sweep_config = hydra_context.config_loader.load_sweep_config(config, overrides)
        with open_dict(sweep_config):
            sweep_config.hydra.job.id = str(number)
            sweep_config.hydra.job.num = number
        HydraConfig.instance().set_config(sweep_config)
        result = run_job(
            hydra_context=hydra_context,
            task_function=task_function,
            config=sweep_config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        # The sweep has no need of them, and a user's own config may hold what cannot be handed over.
        result.cfg = result.hydra_cfg = None
        return result
    except (Interrupted, KeyboardInterrupt):
        return _failed(overrides, "interrupted")
    finally:
        _busy.clear()
