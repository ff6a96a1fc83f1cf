"""A process that is gone is not taken for one that runs."""

import subprocess
import sys
import time

import psutil

from lenetexp import process


def test_a_process_is_told_from_dead_ones_and_from_others_of_its_number() -> None:
    mine = process.name()
    assert process.alive(mine)
    pid, _, started = mine.partition(" started ")
    assert not process.alive(f"{pid} started {int(started) - 60}")
    assert not process.alive("")


def test_a_killed_process_that_no_one_has_asked_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    named = process.name_of(psutil.Process(child.pid))
    assert process.alive(named)
    child.kill()
    deadline = time.monotonic() + 10
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert psutil.pid_exists(child.pid)
    assert not process.alive(named)
    child.wait()
