"""SIGINT, SIGTERM and SIGHUP end a run at a safe point."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, a cluster that takes its machine back, a closed terminal.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(SystemExit):
    """A signal asked for an end; exits with the code that shells expect: 130, 143 or 129."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


# What the outermost `noted` has caught: a second signal is the second one for all that are inside it.
_caught: list[int] | None = None


@contextmanager
def noted() -> Iterator[Callable[[], None]]:
    """Notes signals, and gives a function that raises `Interrupted` if one has come.

    An exception raised by the handler itself could break a write. A second signal still exits at once.
    """
    global _caught
    outer = _caught
    caught = _caught = [] if outer is None else outer

    def note(signum: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signum)

    def stop_if_asked() -> None:
        if caught:
            raise Interrupted(caught[0])

    try:
        with _handled_by(note):
            yield stop_if_asked
    finally:
        _caught = outer


@contextmanager
def raised() -> Iterator[None]:
    """Raises `Interrupted` as soon as a signal comes, for long calls into other libraries."""

    def stop(signum: int, frame: FrameType | None) -> None:
        if _caught is not None:
            _caught.append(signum)
        raise Interrupted(signum)

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # A hang-up that is ignored, as nohup does it, stays ignored. Only the main thread can have handlers.
    in_main = threading.current_thread() is threading.main_thread()
    signals = [s for s in SIGNALS if s == signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN] if in_main else []
    before = {signum: signal.signal(signum, handler) for signum in signals}
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)
