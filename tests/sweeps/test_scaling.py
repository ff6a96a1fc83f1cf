"""The same sweep with other launchers, and on a server with PostgreSQL: real ones, started here."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import postgres
from helpers import Server, Store, free_port, run_script

pytestmark = pytest.mark.slow

SWEEP = ["-m", "experiment=smoke", "epochs=1", "optimizer.lr=1e-3,4e-3", "model.activation=relu,tanh"]


def accuracies(cwd: Path, *arguments: str) -> list[tuple[str, ...]]:
    """Each run's line of a sweep's table, without how long it took."""
    done = run_script("run", *SWEEP, *arguments, cwd=cwd, timeout=280)
    assert done.returncode == 0, done.stderr
    (table,) = cwd.glob("outputs/sweeps/*/table.csv")
    head, *rows = (line.split(",") for line in table.read_text().splitlines())
    keep = [i for i, name in enumerate(head) if name not in ("seconds", "run_id", "folder")]
    return [tuple(row[i] for i in keep) for row in rows]


@pytest.fixture(scope="module")
def locally(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, ...]]:
    """The table that the local launcher gives."""
    return accuracies(tmp_path_factory.mktemp("local"))


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster of one machine, started by hand as docs/scaling.md says."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # a fresh machine has none in its home
    ray, port = [sys.executable, "-m", "ray.scripts.scripts"], free_port()
    words = ["start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run([*ray, *words, "--disable-usage-stats"], check=True, capture_output=True, timeout=120)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([*ray, "stop"], check=False, capture_output=True, timeout=60)


def test_a_ray_cluster_gives_the_same_table(ray_cluster: str, locally: list[tuple[str, ...]], tmp_path: Path) -> None:
    joined = [f"hydra.launcher.ray.init.address={ray_cluster}"]
    assert accuracies(tmp_path, "hydra/launcher=ray", *joined) == locally


def test_submitit_gives_the_same_table(locally: list[tuple[str, ...]], tmp_path: Path) -> None:
    assert accuracies(tmp_path, "hydra/launcher=submitit_local") == locally


@pytest.fixture
def server_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `mlflow server` on a PostgreSQL of its own."""
    with postgres.running() as database:
        server = Server(tmp_path_factory.mktemp("postgres"), database)
        try:
            server.start()
            yield server.uri
        finally:
            server.stop()


def test_sixteen_at_once_on_postgres_lose_nothing(server_on_postgres: str, tmp_path: Path) -> None:
    words = ["-m", "experiment=smoke", "seed=range(16)", "hydra.launcher.n_jobs=16", "tracking.model=true"]
    done = run_script("run", *words, f"tracking.uri={server_on_postgres}", cwd=tmp_path, timeout=290)
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path, server_on_postgres)
    assert len(store.children) == 16
    for run in store.children:
        assert run.info.status == "FINISHED"
        assert [step for step, _ in store.history(run, "val/accuracy")] == [1, 2]
        assert len(run.inputs.dataset_inputs) == len(run.outputs.model_outputs) == 1
        assert {"config.yaml", "checkpoints", "figures", "reproduce"} <= store.artifacts(run)
