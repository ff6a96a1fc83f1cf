"""This process by a name that no later one has, and whether the process of such a name is still there."""

import re

import psutil

# Where a clock is set while a process runs, its start is told a second earlier or later.
SAME_START = 2.0


def name() -> str:
    """This process: its number and when it started, in seconds since 1970."""
    return name_of(psutil.Process())


def name_of(process: psutil.Process) -> str:
    """A process, apart from any that gets its number later."""
    return f"{process.pid} started {process.create_time():.0f}"


def alive(named: str) -> bool:
    """Whether the process of this name still runs on this machine.

    One that was killed and whose parent has not asked for its end yet (a zombie) does not.
    """
    match = re.fullmatch(r"(\d+) started (\d+)", named)
    if match is None:
        return False
    try:
        process = psutil.Process(int(match[1]))
        same = abs(process.create_time() - int(match[2])) <= SAME_START
        return same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False
