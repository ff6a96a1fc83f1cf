"""Hydra's launcher for the cores and GPUs of this machine; hydra/launcher=local is lenetexp's default."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lenetexp.config import UserError


class LocalLauncher(Launcher):
    """Runs jobs in processes that are kept for the next job; one that dies takes only its own job along."""

    def __init__(self, n_jobs: int | None, per_gpu: int) -> None:
        self.n_jobs, self.per_gpu = n_jobs, per_gpu
        self.workers: list[Any] = []

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called once by Hydra, before any job is known.

        Raises:
            UserError: a setting is wrong.
        """
        if not (self.n_jobs is None or (isinstance(self.n_jobs, int) and self.n_jobs >= 1)):
            raise UserError(
                f"hydra.launcher.n_jobs={self.n_jobs}: must be a whole number, 1 or more, or null"
            )
        if not (isinstance(self.per_gpu, int) and self.per_gpu >= 1):
            raise UserError(f"hydra.launcher.per_gpu={self.per_gpu}: must be a whole number above 0")
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def warm_up(self, at_most: int) -> None:
        """Starts the processes, which import what jobs need while the caller does other things.

        Args:
            at_most: how many jobs there can be, so that no process is started for nothing.
        """
        from hydra_plugins.lenetexp_sweep import _workers

        self.workers = _workers.start(self, at_most)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs every job and waits for all.

        Returns:
            in the jobs' order; a job that failed, or whose process died, with its exception.
        """
        results: dict[int, JobReturn] = {}
        cold = not self.workers
        if cold:
            self.warm_up(len(job_overrides))
        try:
            self.stream(iter(job_overrides), results.__setitem__, initial_job_idx)
        finally:
            if cold:
                self.close()
        return [results[number] for number in sorted(results)]

    def stream(
        self,
        jobs: Iterator[Sequence[str]],
        take: Callable[[int, JobReturn], None],
        first: int,
    ) -> None:
        """Runs what `jobs` gives on warm processes, asking for the next one whenever a process is free.

        Args:
            jobs: each job's overrides.
            take: called with a job's number and its result as soon as it is done.
            first: number of the first job.
        """
        from hydra_plugins.lenetexp_sweep import _workers

        _workers.run(self, self.workers, jobs, take, first)

    def close(self) -> None:
        """Ends the processes at once."""
        for worker in self.workers:
            worker.close()
        self.workers = []
