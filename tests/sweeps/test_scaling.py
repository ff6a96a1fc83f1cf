"""The same sweep by other launchers and against a server on PostgreSQL: real ones, started here."""

import glob
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from conftest import free_port, run_script

pytestmark = pytest.mark.slow

SWEEP = ["-m", "experiment=smoke", "epochs=1", "optimizer.lr=1e-3,4e-3", "model.activation=relu,tanh"]


def accuracies(cwd: Path, *arguments: str) -> list[tuple[str, ...]]:
    """What a sweep's table says of each run, without how long it took."""
    done = run_script("run", *SWEEP, *arguments, cwd=cwd, timeout=280)
    assert done.returncode == 0, done.stderr
    (table,) = cwd.glob("outputs/sweeps/*/table.csv")
    head, *rows = (line.split(",") for line in table.read_text().splitlines())
    keep = [i for i, name in enumerate(head) if name not in ("seconds", "run_id")]
    return [tuple(row[i] for i in keep) for row in rows]


@pytest.fixture(scope="module")
def locally(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, ...]]:
    """The table that the local launcher gives."""
    return accuracies(tmp_path_factory.mktemp("local"))


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster of one machine, started by hand as docs/scaling.md says."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # a fresh machine has none in its home
    ray, port = str(Path(sys.executable).with_name("ray")), free_port()
    words = ["start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run([ray, *words, "--disable-usage-stats"], check=True, capture_output=True, timeout=120)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([ray, "stop"], check=False, capture_output=True, timeout=60)


def test_a_ray_cluster_gives_the_same_table(
    ray_cluster: str, locally: list[tuple[str, ...]], tmp_path: Path
) -> None:
    joined = [f"hydra.launcher.ray.init.address={ray_cluster}"]
    assert accuracies(tmp_path, "hydra/launcher=ray", *joined) == locally


def test_submitit_gives_the_same_table(locally: list[tuple[str, ...]], tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    assert accuracies(tmp_path, "hydra/launcher=submitit_local") == locally


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, where it is installed."""
    there = shutil.which("initdb")
    found = [there] if there else sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return Path(found[-1]).resolve().parent if found else None


@pytest.fixture
def server_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `mlflow server` whose record a PostgreSQL of its own holds."""
    pytest.importorskip("psycopg")
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed")
    # PostgreSQL refuses to run as root, and cannot reach into pytest's folders as anyone else.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder, port = tmp_path_factory.mktemp("postgres"), free_port()
    data = Path("/tmp") / f"lenetexp-postgres-{os.getpid()}"
    address = ["-h", "127.0.0.1", "-p", str(port)]

    def call(program: str, *words: str) -> None:
        command = [*user, str(where / program), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120, cwd="/")

    call("initdb", "-D", str(data), "-U", "postgres", "-A", "trust")
    call(
        "pg_ctl", "-D", str(data), "-w", "-l", str(data / "log"),
        "-o", f"-p {port} -c listen_addresses=127.0.0.1 -k {data}", "start",
    )  # fmt: skip
    try:
        call("createdb", *address, "-U", "postgres", "mlflow")
        http = free_port()
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(http),
             "--workers", "1", "--artifacts-destination", str(folder / "artifacts"),
             "--backend-store-uri", f"postgresql+psycopg://postgres@127.0.0.1:{port}/mlflow"],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(120):
                with suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{http}/health", timeout=1)
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{http}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)
    finally:
        call("pg_ctl", "-D", str(data), "-m", "fast", "stop")
        shutil.rmtree(data, ignore_errors=True)


def test_sixteen_at_once_on_postgres_lose_nothing(server_on_postgres: str, tmp_path: Path) -> None:
    words = ["-m", "experiment=smoke", "seed=range(16)", "hydra.launcher.n_jobs=16"]
    done = run_script("run", *words, f"tracking.uri={server_on_postgres}", cwd=tmp_path, timeout=290)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(server_on_postgres)
    experiment = client.get_experiment_by_name("lenetexp")
    runs = client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` LIKE '%'")
    assert len(runs) == 16
    for run in runs:
        run_id = run.info.run_id
        assert run.info.status == "FINISHED"
        assert [metric.step for metric in client.get_metric_history(run_id, "val/accuracy")] == [1, 2]
        assert len(run.inputs.dataset_inputs) == len(run.outputs.model_outputs) == 1
        held = {entry.path for entry in client.list_artifacts(run_id)}
        assert {"config.yaml", "checkpoints", "figures", "reproduce"} <= held
