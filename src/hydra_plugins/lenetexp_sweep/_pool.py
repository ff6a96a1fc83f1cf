"""The worker processes of the local launcher: kept warm, one job at a time each, replaced when one dies."""

import logging
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, env_override, filter_overrides, run_job, setup_globals
from hydra.utils import get_method
from omegaconf import open_dict

from lenetexp.errors import UserError

GRACE = 10.0  # seconds that jobs have to end by themselves after they were asked to
# What a killed job leaves is freed; nobody needs to read on the terminal that it was.
QUIET = {"PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}
TRIES = 3  # processes in a row that die before they are ready: there is no memory for another, or no hope


class Worker:
    """One process and the job it runs. Its pipe is its own: when it dies, no other worker is affected."""

    def __init__(self, environment: dict[str, str], warm_up: str | None) -> None:
        self.environment, self.warm_up = environment, warm_up
        self.job: tuple[int, Sequence[str]] | None = None  # its number and overrides
        self.deaths = 0  # since a process was ready
        self._start()

    def _start(self) -> None:
        # Spawned, not forked: a fork of a process with threads may hang, and CUDA does not survive it.
        spawn = multiprocessing.get_context("spawn")
        self.idle = False
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, self.warm_up))
        with env_override(QUIET):
            resource_tracker.ensure_running()  # it would unblock SIGINT below
        # Ctrl-C is for the parent only, even while Python itself starts in the process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with env_override(self.environment):
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # the process has the only copy left, so the pipe ends when it dies

    def give(self, context: bytes, job: tuple[int, Sequence[str]]) -> None:
        """Lets the idle process run a job."""
        logging.getLogger(__name__).info(f"\t#{job[0]} : {' '.join(filter_overrides(job[1]))}")
        self.job, self.idle = job, False
        with suppress(OSError):  # it has just died, which `receive` finds out
            self.pipe.send((context, *job))

    def receive(self) -> tuple[int, JobReturn] | None:
        """The result of its job, or None: the process is ready for its first job, or died without one."""
        job, self.job = self.job, None
        try:
            result = cloudpickle.loads(self.pipe.recv_bytes())
            self.idle, self.deaths = True, 0
        except Exception as error:
            self.deaths += 1
            if self.deaths < TRIES:
                self._start()
            died = isinstance(error, (EOFError, OSError))
            said = "its process died (killed, or out of memory)" if died else f"its result cannot be read: {error}"
            result = job and _failed(job[1], UserError(said))
        return job and (job[0], result)


def _failed(overrides: Sequence[str], error: Exception) -> JobReturn:
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=error)


# What follows runs in the processes.


def _serve(pipe: Connection, warm_up: str | None) -> None:
    """All that a process does."""
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
    """Runs a job as Hydra's own launchers do; returns its result, pickled."""
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
        result = _failed(overrides, error)
    except BaseException as error:  # sys.exit() or a signal ends only this job
        result = _failed(overrides, UserError(f"the job ended with {type(error).__name__}({error})"))
    return _pickled(result)


def _pickled(result: JobReturn) -> bytes:
    """The result; what cannot be passed to the parent is left out, or replaced by an error that says what it was."""
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
