"""SIGINT and SIGTERM noted, so that the work in hand can end where it is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(SystemExit):
    """A signal asked for an end; leaves with the code that shells expect, 130 or 143."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


@contextmanager
def noted() -> Iterator[Callable[[], None]]:
    """Notes SIGINT and SIGTERM; gives a function that raises `Interrupted` when one has come.

    An exception out of the handler itself could break a write in its middle. A second signal leaves
    at once all the same. Outside the main thread, where Python has no signals, nothing is noted.
    """
    caught: list[int] = []

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
    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_if_asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
