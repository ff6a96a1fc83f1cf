"""Hydra's launcher for the cores and GPUs of this machine, for any application: hydra/launcher=local."""

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import cycle, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from typing import Any

import cloudpickle
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, open_dict

from lenetexp.config.schema import SHARED_THREADS, THREAD_VARIABLES
from lenetexp.errors import UserError
from lenetexp.runs.interrupt import Interruption, defer_signals

GRACE = 10.0  # seconds that jobs have to end by themselves after they were asked to
TRIES = 3  # processes in a row that die before they are ready: there is no memory for another, or no hope


@dataclass
class LocalLauncherConf:
    """The settings of hydra/launcher=local. `LocalLauncher.setup` checks the numbers."""

    _target_: str = "hydra_plugins.lenetexp_sweep.launcher.LocalLauncher"
    n_jobs: Any = None  # jobs at a time; null: one per core, or per_gpu on each GPU
    device: str = "cpu"  # what jobs run on: cuda or auto spread them over the CUDA devices, if there are any
    per_gpu: Any = 1  # jobs that share a GPU
    warm_up: str | None = None  # dotted name of a function that every new process calls before its first job


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="lenetexp")


class LocalLauncher(Launcher):
    """Runs jobs in worker processes that stay for the next job. One that dies takes only its own job with it."""

    def __init__(self, n_jobs: int | None, device: str, per_gpu: int, warm_up: str | None) -> None:
        self.n_jobs, self.device, self.per_gpu, self.hook = n_jobs, device, per_gpu, warm_up
        self.workers: list[Worker] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings. Hydra calls this once, before any job is known.

        Raises:
            UserError: A setting is wrong.
        """
        if self.n_jobs is not None and not (type(self.n_jobs) is int and self.n_jobs >= 1):
            raise UserError(f"hydra.launcher.n_jobs={self.n_jobs}: must be a whole number, 1 or more, or null")
        if not (type(self.per_gpu) is int and self.per_gpu >= 1):
            raise UserError(f"hydra.launcher.per_gpu={self.per_gpu}: must be a whole number, 1 or more")
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    @contextmanager
    def start_workers(self, at_most: int) -> Iterator[None]:
        """Start up to `at_most` processes, which import what jobs need while the caller does other things."""
        try:
            with (
                defer_signals() as stop_if_asked
            ):  # raised inside a start, a signal would leave a process that nobody knows
                for environment in self.build_environments()[:at_most]:
                    stop_if_asked()
                    self.workers.append(Worker(environment, self.hook))
                stop_if_asked()
            yield
        finally:
            for worker in self.workers:  # an idle process ends by itself, and calls what is registered with `atexit`
                worker.pipe.close()
            for worker in self.workers:
                worker.process.join(GRACE if worker.idle else 0)
                worker.process.kill()
                worker.process.join()
            self.workers = []

    @property
    def readiness(self) -> str:
        """How many of the processes are ready for a job, in words; "" if all are."""
        ready, count = sum(worker.is_ready for worker in self.workers), len(self.workers)
        return f"{ready} of {count} processes ready" if ready < count else ""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs.

        Returns:
            Their results in the order of the jobs, those of failed ones with their exceptions.
        """
        results: dict[int, JobReturn] = {}
        with nullcontext() if self.workers else self.start_workers(len(job_overrides)):
            self.stream(iter(job_overrides), results.__setitem__, initial_job_idx)
        return [results[number] for number in sorted(results)]

    def stream(self, jobs: Iterator[Sequence[str]], take: Callable[[int, JobReturn], None], first: int) -> None:
        """Run jobs, and ask for the next one when a process is free.

        Args:
            jobs: The overrides of each job.
            take: Called with each job's number and its result as soon as it is done.
            first: The number of the first job.

        Raises:
            Interruption: A signal came. Running jobs may save their state.
            UserError: Processes cannot start.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        # cloudpickle, because the task function is part of the script that the user started.
        context = cloudpickle.dumps((self.hydra_context, self.task_function, self.config, Singleton.get_state()))
        remaining, more = enumerate(jobs, first), True
        with defer_signals() as stop_if_asked:
            try:
                while more or any(worker.job for worker in self.workers):
                    usable = [worker for worker in self.workers if worker.deaths < TRIES]
                    if not usable:
                        raise UserError("hydra/launcher=local: its processes die before they can run a job")
                    wait([worker.pipe for worker in usable], timeout=0.2)
                    stop_if_asked()
                    for worker in usable:
                        if worker.pipe.poll() and (result := worker.receive_result()):
                            take(*result)
                        if more and worker.idle:
                            if job := next(remaining, None):
                                worker.send_job(context, job)
                            else:
                                more = False
            except (Exception, Interruption):
                running = [worker for worker in self.workers if worker.job]
                for worker in running:
                    worker.process.terminate()
                deadline = monotonic() + GRACE
                for worker in running:
                    worker.pipe.poll(max(deadline - monotonic(), 0))
                raise

    def build_environments(self) -> list[dict[str, str]]:
        """Build the environment variables that give each job that runs at a time its share of the machine."""
        from joblib import cpu_count  # knows a container's limits; takes a fifth of a second to import

        gpus = _list_visible_gpus() if self.device in ("auto", "cuda") else []
        count = self.n_jobs or len(gpus) * self.per_gpu or cpu_count()
        threads = dict.fromkeys((*THREAD_VARIABLES, SHARED_THREADS), str(max(cpu_count() // count, 1)))
        if any(os.environ.get(name) for name in THREAD_VARIABLES):  # the user's own choice; torch follows either
            threads = {}
        places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
        return [threads | place for place in islice(cycle(places), count)]


def _list_visible_gpus() -> list[str]:
    """List the CUDA devices that this process may use, without the second that importing torch takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return re.findall(r"^GPU (\d+):", subprocess.getoutput("nvidia-smi -L"), re.MULTILINE)
    return [name for name in visible.split(",") if name.strip() not in ("", "-1")]


class Worker:
    """One process and the job that it runs. Its pipe is its own: when it dies, no other worker is affected."""

    def __init__(self, environment: dict[str, str], warm_up: str | None) -> None:
        self.environment, self.warm_up = environment, warm_up
        self.job: tuple[int, Sequence[str]] | None = None  # its number and overrides
        self.deaths = 0  # since a process was ready
        self._start()

    def _start(self) -> None:
        # Spawned, not forked: a fork of a process with threads may hang, and CUDA does not survive it.
        spawn = multiprocessing.get_context("spawn")
        self.idle = False
        self.pipe, child_end = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(child_end, self.warm_up))
        # What a killed job leaves is freed; nobody needs to read on the terminal that it was.
        with env_override({"PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}):
            resource_tracker.ensure_running()  # it would unblock SIGINT below
        # Ctrl-C is for the parent only, even while Python itself starts in the process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with env_override(self.environment):
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child_end.close()  # the process has the only copy left, so the pipe ends when it dies

    @property
    def is_ready(self) -> bool:
        """Whether it has a job, or can take one. May be called in any thread."""
        with suppress(OSError):  # the pipe has just been closed
            return self.idle or self.job is not None or self.pipe.poll()
        return False

    def send_job(self, context: bytes, job: tuple[int, Sequence[str]]) -> None:
        logging.getLogger(__name__).info(f"\t#{job[0]} : {' '.join(filter_overrides(job[1]))}")
        self.job, self.idle = job, False
        with suppress(OSError):  # it has just died, which `receive` finds out
            self.pipe.send((context, *job))

    def receive_result(self) -> tuple[int, JobReturn] | None:
        """Return the result of its job. None means that it is ready for its first job, or died without a result."""
        job, self.job = self.job, None
        try:
            result = cloudpickle.loads(self.pipe.recv_bytes())
            self.idle, self.deaths = True, 0
        except Exception as error:
            self.deaths += 1
            if self.deaths < TRIES:
                self._start()
            died = isinstance(error, (EOFError, OSError))
            message = "its process died (killed, or out of memory)" if died else f"its result cannot be read: {error}"
            result = job and _make_failure(job[1], UserError(message))
        return job and (job[0], result)


def _make_failure(overrides: Sequence[str], error: Exception) -> JobReturn:
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=error)


# What follows runs in the processes.


def _serve(pipe: Connection, warm_up: str | None) -> None:
    """Run the jobs that come through the pipe. This is all that a process does."""
    os.setpgid(0, 0)  # for jobs that handle Ctrl-C themselves
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    idle = threading.Event()
    threading.Thread(target=_end_with_parent, args=(idle,), daemon=True).start()
    # Config files of an application that have the names of the plugins' own: the parent's warnings are enough.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/\w+/\w+' is validated against")
    if warm_up is not None:
        get_method(warm_up)()
    result = cloudpickle.dumps(None)
    with suppress(EOFError, OSError):  # the parent has closed the pipe
        while True:
            idle.set()
            pipe.send_bytes(result)
            job = pipe.recv()
            idle.clear()
            result = _execute(*job)


def _end_with_parent(idle: threading.Event) -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    if not idle.is_set():
        os.kill(os.getpid(), signal.SIGTERM)  # as a cluster would: the job may save its state
        idle.wait(GRACE)
    os._exit(1)


def _execute(context: bytes, number: int, overrides: Sequence[str]) -> bytes:
    """Run a job as Hydra's own launchers do, and return its result, pickled."""
    try:
        hydra_context, task_function, config, singletons = cloudpickle.loads(context)
        setup_globals()
        Singleton.set_state(singletons)
        sweep_config = hydra_context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(sweep_config):
            sweep_config.hydra.job.id = str(number)
            sweep_config.hydra.job.num = number
        result = run_job(task_function, sweep_config, "hydra.sweep.dir", "hydra.sweep.subdir", hydra_context)
    except Exception as error:
        result = _make_failure(overrides, error)
    except BaseException as error:  # sys.exit() or a signal ends only this job
        result = _make_failure(overrides, UserError(f"the job ended with {type(error).__name__}({error})"))
    return _pickle_result(result)


def _pickle_result(result: JobReturn) -> bytes:
    """Pickle a result. What cannot be pickled is left out, or replaced by an error that describes it."""
    value = result._return_value
    if result.status == JobStatus.FAILED:
        stand_in = UserError(f"{type(value).__name__}: {value}")
        trace = "".join(traceback.format_exception(value))
        for error in (value, stand_in):  # pickling keeps notes, but no traceback
            error.add_note(f"In the job's process:\n{trace}")
    else:
        stand_in = UserError(f"the job's return value cannot be pickled: {type(value).__name__}")
    mended = replace(result, status=JobStatus.FAILED, _return_value=stand_in)
    for candidate in (result, replace(result, cfg=None, hydra_cfg=None), mended):
        with suppress(Exception):
            pickled = cloudpickle.dumps(candidate)
            cloudpickle.loads(pickled)  # many an exception can be pickled, but not created again
            return pickled
    return cloudpickle.dumps(replace(mended, cfg=None, hydra_cfg=None))
