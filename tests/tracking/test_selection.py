"""Runs are named by the first characters of their id and by their folder, and newer ones elsewhere are told of."""

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import Command, InProcess
from lenetexp.config.schema import Tracking
from lenetexp.errors import UserError
from lenetexp.tracking.journal import Epoch, Journal, Start
from lenetexp.tracking.names import BEST_ACCURACY, BEST_LOSS, HOST, Tag
from lenetexp.tracking.query import RecordedRun
from lenetexp.tracking.recorder import Recorder, create_run
from lenetexp.tracking.selection import find_by_id, find_run, find_runs, find_sweep
from lenetexp.tracking.store import Store, open_store


def opened(here: InProcess, experiment: str = "lenetexp") -> Store:
    return open_store(Tracking(uri=here.uri, experiment=experiment))


def finished(store: Store, accuracy: float = 0.9, name: str = "a run", **tags: str) -> str:
    """The id of a finished run."""
    run = create_run(store, name, {Tag.CONFIG_HASH: "c0", **tags})
    run.log_metrics({BEST_ACCURACY: accuracy, BEST_LOSS: 0.1})
    run.terminate("FINISHED")
    return run.run_id


def recorded_offline(folder: Path, time: int) -> None:
    folder.mkdir(parents=True)
    events = Journal(folder)
    events.add(Start(time=time, tags={Tag.CONFIG_HASH: "c"}, epochs=1))
    events.add(Epoch(time=time, epoch=1))
    events.close()


@pytest.mark.parametrize(
    "find",
    [
        find_run, lambda store, which: find_runs(store, which)[0], lambda store, which: find_runs(store, [which])[0],
        lambda store, which: find_by_id(store, which, "resume", ""),
    ],
)  # fmt: skip
def test_a_run_is_named_by_the_beginning_of_its_id_and_by_its_folder(
    here: InProcess, find: Callable[[Store, str], RecordedRun]
) -> None:
    store, folder = opened(here), here.cwd / "outputs/runs/it's one"
    first = finished(store, **{Tag.FOLDER: str(folder), Tag.HOST: HOST})
    for _ in range(3):
        finished(opened(here, "another"))
    folder.mkdir(parents=True)
    assert find(store, first[:12]).run_id == find(store, "outputs/runs/it's one").run_id == first
    events = Journal(folder)
    events.add(Start(run_id=first, tags={}, epochs=1))
    events.close()
    assert find(store, str(folder)).run_id == first, "by its journal"


def test_a_sweep_is_named_by_the_beginning_of_its_id_and_by_its_folder(here: InProcess) -> None:
    store, folder = opened(here), here.cwd / "outputs/sweeps/one"
    folder.mkdir(parents=True)
    sweep = create_run(store, "lr", {Tag.SWEEP: "1", Tag.FOLDER: str(folder)}).run_id
    assert find_sweep(store, sweep[:10]).run_id == find_sweep(store, "outputs/sweeps/one").run_id == sweep


def test_a_beginning_that_several_ids_share_names_them(here: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(here)
    ids = [f"12e4{digit * 28}" for digit in "ab"]
    for run_id in ids:
        monkeypatch.setattr("uuid.UUID.hex", property(lambda _, run_id=run_id: run_id))
        assert finished(store) == run_id
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"run=12e4: several runs begin so: .*; give more characters") as told:
        find_run(store, "12e4")
    assert all(run_id[:12] in str(told.value) for run_id in ids)
    with pytest.raises(UserError, match="run=12e: there is no such run"):
        find_run(store, "12e")
    assert find_run(store, "12e4a").run_id == ids[0]


@pytest.mark.parametrize("which", ["12e45678", "0123456789", "12345678", "1e99"])
def test_a_beginning_that_reads_as_a_number_is_a_text(trained: InProcess, typed: Command, which: str) -> None:
    for script, word in (
        ("predict", f"run={which}"), ("compare", f"sweep={which}"), ("compare", f"runs=[{which},{which}]"),
        ("run", f"resume={which}"), ("draw", f"run=[{which},{which}]"),
    ):  # fmt: skip
        done = typed(script, word, f"tracking.uri={trained.uri}")
        assert done.returncode == 1 and f"={which}: there is no such run" in done.stderr, done.stderr


def test_a_folder_that_is_no_runs_says_what_it_is(here: InProcess) -> None:
    store = opened(here)
    recorded_offline(here.cwd / "outputs/runs/offline", time=5)
    with pytest.raises(UserError, match=r"recorded offline; send it first: .*sync\.py folder=outputs/runs"):
        find_run(store, "outputs/runs/offline")
    with pytest.raises(UserError, match="run=outputs: is the folder of no run"):
        find_run(store, "outputs")


@pytest.mark.parametrize("which", ["best", "latest", "Best", "4d1", "my run"])
def test_resume_refuses_what_is_no_id_before_anything_is_announced(typed: Command, which: str) -> None:
    done = typed("run", f"resume={which}")
    assert done.returncode == 1 and done.stdout == ""
    assert f"resume={which}: must be true, false, the id of a run or its first characters" in done.stderr


def test_latest_tells_of_newer_runs_that_it_passes_over(here: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    store, other = opened(here), opened(here, "other")
    passed = finished(other)
    recorded_offline(here.cwd / "outputs/runs/older", time=5)
    with pytest.raises(UserError, match=f"no finished run .*a run is in tracking.experiment=other: run={passed}"):
        find_run(store, "latest")
    chosen = finished(store)
    assert find_run(store, "latest").run_id == chosen
    assert capsys.readouterr().out == "", "they are older"
    newer = finished(other)
    recorded_offline(here.cwd / "outputs/runs/newer", time=2**42)
    assert find_run(store, "latest").run_id == chosen
    said = " ".join(capsys.readouterr().out.split())
    assert f"a newer run is in tracking.experiment=other: run={newer}; a newer run was recorded offline" in said
    assert "python scripts/sync.py folder=" in said and said.endswith("outputs/runs/newer")


def test_runs_are_listed_in_80_columns_with_a_sweep_as_one_line(
    here: InProcess, typed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    store = opened(here)
    alone = finished(store, 0.91, "activation=leaky_relu optimizer=adam lr=0.0012345")
    sweep = create_run(store, "lr × activation, 2 runs", {Tag.SWEEP: "1"})
    best, job = (finished(store, accuracy, **{Tag.PARENT: sweep.run_id}) for accuracy in (0.8, 0.7))
    Recorder(store, best).log_metrics({"test/accuracy": 0.77})
    sweep.set_tag(Tag.BEST_RUN, best)
    sweep.log_metrics({"sweep/best_val_accuracy": 0.8})
    last = create_run(store, "cut", {Tag.CONFIG_HASH: "c0", Tag.HOST: HOST, Tag.FOLDER: str(here.cwd / "cut")})
    last.set_tag(Tag.ENDING, "did not learn")
    last.log_start(Start(tags={}, epochs=1, dataset={"name": "FashionMNIST", "digest": "d", "source": "{}"}))
    last.terminate("FINISHED")
    finished(opened(here, "other"))
    recorded_offline(here.cwd / "outputs/runs/offline", time=5)
    where = f"tracking.uri={here.uri}"
    done = typed("runs", where)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80, done.stdout
    newest, second, third = lines[1:4]
    assert newest.split()[0] == last.run_id[:8] and "FashionM" not in newest and newest.endswith("did not learn")
    assert second.split()[0] == sweep.run_id[:8] and "80.00%  77.00%" in second and "  2 runs: l…  " in second
    assert third.split()[0] == alone[:8] and "91.00%" in third and "…" in third
    assert best[:8] not in done.stdout and job[:8] not in done.stdout
    for text in (
        "1 run in another experiment: tracking.experiment=other", "1 run recorded offline and not sent yet",
        f"python scripts/predict.py run={alone[:8]}", f"python scripts/compare.py sweep={sweep.run_id[:8]}",
    ):  # fmt: skip
        assert text in done.stdout
    assert "2 more: count=3" in typed("runs", "count=1", where).stdout
    of_all = typed("runs", "runs=all", where).stdout
    assert best[:8] in of_all and job[:8] in of_all and sweep.run_id[:8] not in of_all.split("\n\n")[0]
    assert "no run in" in typed("runs", where, "tracking.experiment=Default").stdout
