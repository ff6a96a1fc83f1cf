"""What the tests share: the command line as a user has it, and the real MNIST where it is there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is imported: two threads a process, in two processes on two cores, get in each other's way.
os.environ["OMP_NUM_THREADS"] = "1"

PROJECT = Path(__file__).resolve().parents[1]
MNIST = PROJECT.parent / "shared" / "data"

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds MNIST/raw with the published files."""
    if not (MNIST / "MNIST/raw/train-images-idx3-ubyte").exists():
        pytest.skip("the real MNIST is not at ../shared/data")
    return MNIST


def run_script(
    script: str, *arguments: str, cwd: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """`python scripts/<script>.py …` in `cwd`, as a user runs it."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / f"{script}.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        # The same machine for every test: one thread, no GPU.
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a script in an empty folder of its own: command("run", "epochs=1")."""

    def call(script: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return run_script(script, *arguments, cwd=tmp_path, timeout=timeout)

    return call
