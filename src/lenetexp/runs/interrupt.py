"""SIGINT, SIGTERM and SIGHUP end a run at a safe point."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

# Ctrl-C, a cluster that takes its machine back, a closed terminal.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interruption(SystemExit):
    """A signal asked the command to end. It exits with the code that shells expect: 130, 143 or 129."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


# What the outermost `noted` has caught: a second signal is the second one for all that are inside it.
_caught: list[int] | None = None


@contextmanager
def defer_signals(at_once: bool = False) -> Iterator[Callable[[], None]]:
    """Note signals instead of raising, and give a function that raises `Interruption` if one has come.

    Args:
        at_once: Whether the signal itself raises.
    """
    # An exception raised by the handler itself could break a write. A second signal still exits at once.
    global _caught
    outer = _caught
    caught = _caught = [] if outer is None else outer

    def note(signum: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signum)
        if at_once:
            stop_if_asked()

    def stop_if_asked() -> None:
        if caught:
            raise Interruption(caught[0])

    # A hang-up that is ignored, as nohup does it, stays ignored. Only the main thread can have handlers.
    in_main = threading.current_thread() is threading.main_thread()
    signals = [s for s in SIGNALS if s == signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN] if in_main else []
    before = {signum: signal.signal(signum, note) for signum in signals}
    try:
        yield stop_if_asked
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)
        _caught = outer


def is_stop_requested() -> bool:
    """Return whether a signal has asked for an end that has not come yet."""
    return bool(_caught)


# Raises `Interrupted` as soon as a signal comes, for long calls into other libraries.
raised = partial(defer_signals, at_once=True)
