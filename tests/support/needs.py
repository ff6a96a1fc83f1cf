"""What some tests need and a machine may lack: a browser, MNIST, PostgreSQL."""

import os
import shutil
from typing import NoReturn

import pytest

NAMES = ("browser", "mnist", "postgres")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def read_required() -> set[str]:
    """Return what may not be missing here: LENETEXP_REQUIRE lists it, and who names MNIST's folder has MNIST."""
    required = set(filter(None, os.environ.get("LENETEXP_REQUIRE", "").split(",")))
    if unknown := required - {*NAMES}:
        raise pytest.UsageError(f"LENETEXP_REQUIRE={','.join(sorted(unknown))}: must be some of {','.join(NAMES)}")
    return required | ({"mnist"} if os.environ.get("LENETEXP_MNIST") else set())


def report_missing(name: str, message: str) -> NoReturn:
    """Skip the test; fail it where `name` is required, so that CI never passes without having tested it."""
    if name in read_required():
        pytest.fail(f"{name} is required here, and {message}", pytrace=False)
    pytest.skip(message)
