"""SIGINT, SIGTERM and SIGHUP noted, so that the work in hand can end where it is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, a cluster that wants its machine back, a terminal that was closed.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(SystemExit):
    """A signal asked for an end; leaves with the code that shells expect, 130 or 143 (or 129)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


# What the outermost `noted` has caught: a second signal is the second for all that are inside it.
_caught: list[int] | None = None


@contextmanager
def noted() -> Iterator[Callable[[], None]]:
    """Notes the signals; gives a function that raises `Interrupted` when one has come.

    An exception out of the handler itself could break a write in its middle. A second signal leaves
    at once all the same. Outside the main thread, where Python has no signals, nothing is noted.
    """
    global _caught
    outer = _caught
    caught: list[int] = [] if outer is None else outer

    def note(signum: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signum)

    def stop_if_asked() -> None:
        if caught:
            raise Interrupted(caught[0])

    if threading.current_thread() is not threading.main_thread():
        yield stop_if_asked
        return
    _caught = caught
    try:
        with _handled_by(note):
            yield stop_if_asked
    finally:
        _caught = outer


@contextmanager
def raised() -> Iterator[None]:
    """Raises `Interrupted` at once when a signal comes: for calls of others' that wait for long."""

    def stop(signum: int, frame: FrameType | None) -> None:
        if _caught is not None:
            _caught.append(signum)
        raise Interrupted(signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # A hang-up that was ignored before, as nohup does it, stays ignored.
    signals = [s for s in SIGNALS if s == signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, handler) for signum in signals}
    try:
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)
