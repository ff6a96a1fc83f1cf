"""A real PostgreSQL, started here."""

import glob
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

from helpers import free_port
from needs import report_missing


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, if it is installed."""
    there = shutil.which("initdb")
    found = [there] if there else sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return Path(found[-1]).resolve().parent if found else None


@contextmanager
def running() -> Iterator[str]:
    """The address of an empty database, as MLflow takes it."""
    where = programs()
    if where is None:
        report_missing("postgres", "PostgreSQL is not installed")
    # PostgreSQL refuses to run as root, and cannot reach into pytest's folders as anyone else.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    data, port = Path(gettempdir()) / f"lenetexp-postgres-{os.getpid()}", free_port()

    def call(program: str, *words: str) -> None:
        command = [*user, str(where / program), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120, cwd="/")

    call("initdb", "-D", str(data), "-U", "postgres", "-A", "trust")
    call(
        "pg_ctl", "-D", str(data), "-w", "-l", str(data / "log"),
        "-o", f"-p {port} -c listen_addresses=127.0.0.1 -k {data}", "start",
    )  # fmt: skip
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "mlflow")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/mlflow"
    finally:
        call("pg_ctl", "-D", str(data), "-m", "fast", "stop")
        shutil.rmtree(data, ignore_errors=True)
