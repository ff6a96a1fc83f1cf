"""Hydra's launcher for the cores and GPUs of this machine, for any application: hydra/launcher=local."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import Any

import cloudpickle
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.lenetexp_sweep._pool import GRACE, TRIES, Worker
from lenetexp.errors import UserError
from lenetexp.runs.interrupt import Interrupted, noted


@dataclass
class LocalLauncherConf:
    """Registered as hydra/launcher=local; the numbers are checked by `LocalLauncher.setup`."""

    _target_: str = "hydra_plugins.lenetexp_sweep.launcher.LocalLauncher"
    n_jobs: Any = None  # jobs at a time; null: one per core, or per_gpu on each GPU
    device: str = "cpu"  # what jobs run on: cuda or auto spread them over the CUDA devices, if there are any
    per_gpu: Any = 1  # jobs that share a GPU
    warm_up: str | None = None  # dotted name of a function that every new process calls before its first job


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="lenetexp")


class LocalLauncher(Launcher):
    """Runs jobs in worker processes that stay for the next job; one that dies takes only its own job with it."""

    def __init__(self, n_jobs: int | None, device: str, per_gpu: int, warm_up: str | None) -> None:
        self.n_jobs, self.device, self.per_gpu, self.hook = n_jobs, device, per_gpu, warm_up
        self.workers: list[Worker] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called once by Hydra, before any job is known; raises `UserError` if a setting is wrong."""
        if self.n_jobs is not None and not (type(self.n_jobs) is int and self.n_jobs >= 1):
            raise UserError(f"hydra.launcher.n_jobs={self.n_jobs}: must be a whole number, 1 or more, or null")
        if not (type(self.per_gpu) is int and self.per_gpu >= 1):
            raise UserError(f"hydra.launcher.per_gpu={self.per_gpu}: must be a whole number, 1 or more")
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    @contextmanager
    def started(self, at_most: int) -> Iterator[None]:
        """Starts the processes, `at_most` so many, which import what jobs need while the caller does other things."""
        self.workers = [Worker(environment, self.hook) for environment in self.environments()[:at_most]]
        try:
            yield
        finally:
            for worker in self.workers:  # an idle process ends by itself, and calls what is registered with `atexit`
                worker.pipe.close()
            for worker in self.workers:
                worker.process.join(GRACE if worker.idle else 0)
                worker.process.kill()
                worker.process.join()
            self.workers = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs; returns their results in the order of the jobs, failed ones with their exceptions."""
        results: dict[int, JobReturn] = {}
        with nullcontext() if self.workers else self.started(len(job_overrides)):
            self.stream(iter(job_overrides), results.__setitem__, initial_job_idx)
        return [results[number] for number in sorted(results)]

    def stream(self, jobs: Iterator[Sequence[str]], take: Callable[[int, JobReturn], None], first: int) -> None:
        """Runs jobs on the processes that are started, and asks for the next one when a process is free.

        Calls `take` with each job's number, counted from `first`, and its result as soon as it is done. Raises
        `Interrupted` if a signal came, and `UserError` if processes cannot start; running jobs may save their state.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        # cloudpickle, because the task function is part of the script that the user started.
        context = cloudpickle.dumps((self.hydra_context, self.task_function, self.config, Singleton.get_state()))
        left = enumerate(jobs, first)
        more = True
        with noted() as stop_if_asked:
            try:
                while more or any(worker.job for worker in self.workers):
                    usable = [worker for worker in self.workers if worker.deaths < TRIES]
                    if not usable:
                        raise UserError("hydra/launcher=local: its processes die before they can run a job")
                    wait([worker.pipe for worker in usable], timeout=0.2)
                    stop_if_asked()
                    for worker in usable:
                        if worker.pipe.poll() and (done := worker.receive()):
                            take(*done)
                        if more and worker.idle:
                            if job := next(left, None):
                                worker.give(context, job)
                            else:
                                more = False
            except (Exception, Interrupted):
                running = [worker for worker in self.workers if worker.job]
                for worker in running:
                    worker.process.terminate()
                deadline = monotonic() + GRACE
                for worker in running:
                    worker.pipe.poll(max(deadline - monotonic(), 0))
                raise

    def environments(self) -> list[dict[str, str]]:
        """For each job that may run at a time, the environment variables that give it its share of the machine."""
        from joblib import cpu_count  # knows a container's limits; takes a fifth of a second to import

        gpus = _visible_gpus() if self.device in ("auto", "cuda") else []
        count = self.n_jobs or len(gpus) * self.per_gpu or cpu_count()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(max(cpu_count() // count, 1)))
        places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
        return [threads | place for place in islice(cycle(places), count)]


def _visible_gpus() -> list[str]:
    """The CUDA devices that this process may use, found without the second that importing torch takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return re.findall(r"^GPU (\d+):", subprocess.getoutput("nvidia-smi -L"), re.MULTILINE)
    return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
