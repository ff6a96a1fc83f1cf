"""MLflow in a process of its own, which imports it and opens the store while the training process imports torch."""

import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

from lenetexp.cli import pause_garbage_collection
from lenetexp.errors import UserError, format_error

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Words of a command line with which it is no single new run: those commands read MLflow in their own process.
_OTHERWISE = ("-", "sweep=", "resume=", "tracking.offline=", "hydra.mode=")

_process: subprocess.Popen[bytes] | None = None
_lock = threading.Lock()
_numbers = itertools.count()


def start(words: list[str]) -> None:
    """Start MLflow's process if the words of a command line ask for one new run. It ends with this process."""
    global _process
    if not any(word.startswith(_OTHERWISE) for word in words):
        command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
        _process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def call(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **keywords: Arguments.kwargs
) -> Result:  # fmt: skip
    """Call a function in MLflow's process, or in this one if none was started.

    Function, arguments and result must be picklable.

    Raises:
        UserError: MLflow's process is gone.
        Exception: Whatever the function raises.
    """
    if _process is None:
        return function(*arguments, **keywords)
    assert _process.stdin is not None and _process.stdout is not None
    number, answer = next(_numbers), -1
    request = pickle.dumps((number, Path.cwd(), function, arguments, keywords))
    with _lock:
        try:
            _process.stdin.write(request)
            _process.stdin.flush()
            while answer != number:  # a call that Ctrl-C ended leaves its answer behind
                answer, result, error = pickle.load(_process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise UserError("MLflow's process is gone; it may have been killed") from None
    if error is not None:
        raise error
    return result


def serve() -> None:
    """Answer calls, one after the other, until the calling process closes the pipe or dies."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the other process sends all it has before it ends
        signal.signal(getattr(signal, name, signal.SIGINT), signal.SIG_IGN)
    import lenetexp.tracking.store  # noqa: F401  # sets what MLflow reads when it is imported

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # only answers may go where they are read
    calls: queue.Queue[Any] = queue.Queue()
    # A thread of its own: a server that hangs must not keep this process alive.
    threading.Thread(target=_read, args=(sys.stdin.buffer, calls), daemon=True).start()
    with pause_garbage_collection():
        import_mlflow()
    while True:
        number, folder, function, arguments, keywords = calls.get()
        result = error = None
        try:
            os.chdir(folder)  # a store's path may be relative
            result = function(*arguments, **keywords)
        except Exception as exception:
            error = (
                exception
                if isinstance(exception, UserError)
                else UserError(f"{type(exception).__name__}: {format_error(exception)}")
            )
        pickle.dump((number, result, error), answers)
        answers.flush()


def import_mlflow() -> None:
    """Import what opening a store needs, which takes seconds."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def _read(pipe: BinaryIO, calls: "queue.Queue[Any]") -> None:
    try:
        while True:
            calls.put(pickle.load(pipe))
    finally:  # usually the end of the file
        os._exit(0)
