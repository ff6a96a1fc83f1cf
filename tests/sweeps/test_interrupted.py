"""Sweeps that are killed, stopped or share a store with others lose nothing; these take minutes."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from mlflow.entities import Run

from helpers import FIGURES, Started, Store, all_gone, family, journals, run_script, wait_for_runs

pytestmark = pytest.mark.slow

LONG = ["-m", "experiment=smoke", "epochs=30", "seed=0,1,2,3", "hydra.launcher.n_jobs=2"]


def losses_of(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    return {run.data.params["seed"]: (run.data.metrics["best/val_loss"], run.data.metrics["test/loss"]) for run in runs}


def test_a_killed_sweep_resumes_and_ends_as_an_undisturbed_one(
    start: Callable[..., Started], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    started = start(*LONG)
    wait_for_runs(started, tmp_path, count=4, ended=2)
    children = family(started)
    os.killpg(started.pid, signal.SIGKILL)
    assert all_gone(children, within=15), "no process is left"
    store = Store(tmp_path)
    before = {run.info.run_id: store.epochs(run) for run in store.children if run.info.status == "FINISHED"}
    assert 2 <= len(before) < 4
    done = run_script("run", *LONG, "resume=true", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 4 runs finished already" in done.stdout
    finished = [run for run in store.children if run.info.status == "FINISHED"]
    assert len(finished) == 4 and len(store.sweeps) == 1
    for run in finished:
        assert store.epochs(run) == before.get(run.info.run_id, list(range(1, 31))) == list(range(1, 31))
    assert not any(run.info.status == "RUNNING" for run in store.runs)
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    assert run_script("run", *LONG, cwd=undisturbed, timeout=300).returncode == 0
    assert losses_of(finished) == losses_of(Store(undisturbed).children)


def test_ctrl_c_ends_a_sweep_with_its_record_closed(start: Callable[..., Started], tmp_path: Path) -> None:
    started = start(*LONG)
    wait_for_runs(started, tmp_path, count=2, ended=0)
    children = family(started)
    started.send_signal(signal.SIGINT)
    out, _ = started.communicate(timeout=30)
    assert started.returncode == 130
    assert out.splitlines()[-1].startswith("Stopped. To resume: python ")
    assert out.count("resume=true") == 1, "one command to go on"
    assert "2 interrupted, 2 not started" in out and "killed" not in out and "not run" not in out
    assert all_gone(children, within=5)
    store = Store(tmp_path)
    assert store.sweeps[0].info.status == "KILLED"
    statuses = {run.info.status for run in store.runs}
    assert "KILLED" in statuses and "RUNNING" not in statuses


def test_a_sweep_that_a_cluster_ends_resumes_to_the_same_end(
    start: Callable[..., Started], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Eight runs on two workers, SIGTERM halfway."""
    eight = ["-m", "experiment=smoke", "epochs=25", "seed=range(8)", "hydra.launcher.n_jobs=2"]
    started = start(*eight)
    wait_for_runs(started, tmp_path, count=4, ended=3)
    children, asked = family(started), time.monotonic()
    started.send_signal(signal.SIGTERM)
    while any(reader.end is None for reader in journals(tmp_path, "sweeps/*/*")):
        assert time.monotonic() - asked < 5, "after five seconds a run has not saved its state"
        time.sleep(0.05)
    out, _ = started.communicate(timeout=30)
    assert started.returncode == 143 and "resume=true" in out
    assert all_gone(children, within=5)
    store = Store(tmp_path)
    killed = [run for run in store.children if run.info.status == "KILLED"]
    assert 1 <= len(killed) <= 2 and not any(run.info.status == "RUNNING" for run in store.runs)
    done = run_script("run", *eight, "resume=true", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(store.children) == 8
    for run in store.children:
        assert run.info.status == "FINISHED" and store.epochs(run) == list(range(1, 26))
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    assert run_script("run", *eight, cwd=undisturbed, timeout=300).returncode == 0
    assert losses_of(store.children) == losses_of(Store(undisturbed).children)


def test_sixteen_processes_at_once_on_a_store_that_does_not_exist(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    started = [start("experiment=smoke", "epochs=1", f"seed={seed}") for seed in range(16)]
    for each in started:
        _, errors = each.communicate(timeout=280)
        assert each.returncode == 0, errors
    store = Store(tmp_path)
    assert len(store.runs) == 16
    for run in store.runs:
        assert run.info.status == "FINISHED" and store.epochs(run) == [1]
        assert len(run.inputs.dataset_inputs) == 1 and "test/accuracy" in run.data.metrics
        assert store.artifacts(run, "figures") == FIGURES


def test_a_worker_that_dies_with_nothing_to_do_is_replaced(start: Callable[..., Started]) -> None:
    started = start("-m", "experiment=smoke", "epochs=1", "seed=1,2,3", "hydra.launcher.n_jobs=2")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if workers := [child for child in family(started) if "spawn_main" in " ".join(child.cmdline())]:
            break
        time.sleep(0.01)
    time.sleep(0.5)
    workers[0].kill()
    out, errors = started.communicate(timeout=120)
    assert (started.returncode, errors) == (0, ""), errors
    assert "3 finished" in out


def test_repeated_combinations_run_once_and_another_setting_is_another_sweep(tmp_path: Path) -> None:
    grid = ["experiment=smoke", "epochs=1", "-m", "model.activation=relu,relu"]  # -m anywhere
    once = run_script("run", *grid, "resume=true", cwd=tmp_path)
    assert once.returncode == 0 and "1 of 2 combinations repeat others" in once.stdout
    other = run_script("run", *grid, "device.precision=bf16", "resume=true", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert len(Store(tmp_path).sweeps) == 2
