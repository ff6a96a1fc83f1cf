"""How long a server is waited for is ours to choose in every process, unless the user chose it."""

import os
import subprocess
import sys

KEY = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
# A process that opens stores starts another one, as a sweep starts its workers.
CHILD = f"import os; from lenetexp.tracking.store import set_patience; set_patience(7, 8); print(os.environ['{KEY}'])"
PARENT = (
    f"import lenetexp.tracking.store, subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
)


def in_a_process_below_another(**environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_HTTP", "LENETEXP_"))}
    done = subprocess.run(
        [sys.executable, "-c", PARENT], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_worker_process_chooses_its_own_patience() -> None:
    assert in_a_process_below_another() == "7"


def test_the_users_patience_holds_in_a_worker_process_too() -> None:
    assert in_a_process_below_another(**{KEY: "5"}) == "5"
