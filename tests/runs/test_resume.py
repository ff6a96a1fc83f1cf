"""An interrupted run resumes as if nothing had happened; docs/reliability.md says what is promised."""

import random
import re
import shutil
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from helpers import (
    InProcess,
    Server,
    Started,
    Store,
    assert_same_weights,
    composed,
    in_process,
    journals,
    kill,
    make_pictures,
    run_script,
    start_run,
    wait_for_epochs,
)  # fmt: skip
from lenetexp.config.commands import SyncConfig
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.datasets import splits
from lenetexp.errors import UserError
from lenetexp.runs import experiment
from lenetexp.tracking.journal import Epoch, Journal
from lenetexp.tracking.outbox import sync
from lenetexp.training.state import load_checkpoint

SERIES = (
    "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr",
    "inside/c1/gradient_norm", "inside/f6/update_ratio",
)  # fmt: skip
ONCE = ("best/epoch", "best/val_accuracy", "best/val_loss", "test/loss", "test/accuracy")
LENGTH = "epochs=12"
SHORT = ["experiment=smoke", "device=cpu", LENGTH]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> InProcess:
    """A finished run of SHORT that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        store = in_process(tmp_path_factory.mktemp("undisturbed"), patch, empty_store)
        store.train(LENGTH, pictures=True)
        return store


def assert_same_record(one: Store, other: Store) -> None:
    """One finished run in each store: the same weights, metrics, each step once, and animation."""
    (run,), (whole,) = one.runs, other.runs
    assert (run.info.status, whole.info.status) == ("FINISHED", "FINISHED")
    for key in (*SERIES, *ONCE):
        assert one.history(run, key) == other.history(whole, key), key
    assert one.epochs(run) == list(range(1, len(one.epochs(run)) + 1))
    folders = [Path(each.data.tags["lenetexp.folder"]) for each in (run, whole)]
    assert_same_weights(*(load_checkpoint(folder / "checkpoints/best.pt") for folder in folders))
    assert_same_weights(*(load_checkpoint(folder / "checkpoints/last.pt")["model"] for folder in folders))
    resumed, undisturbed = ((folder / "figures/learning.gif").read_bytes() for folder in folders)
    assert resumed == undisturbed


def test_a_killed_run_resumes_and_ends_as_if_it_had_not_been_killed(
    start: Callable[..., Started], here: InProcess, undisturbed: Store
) -> None:
    run = start(*SHORT)
    wait_for_epochs(run, here.cwd, 3)
    kill(run)
    (left,) = here.runs
    assert left.info.status == "RUNNING"
    done = run_script("run", *SHORT, "resume=true", cwd=here.cwd)
    assert done.returncode == 0, done.stderr
    assert f"of run {left.info.run_id}" in done.stdout
    assert_same_record(here, undisturbed)


def test_a_finished_run_is_not_trained_again(here: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    here.train("epochs=1")
    here.train("epochs=1", "resume=true")
    (run,) = here.runs
    assert f"Run {run.info.run_id} of this config is finished already" in capsys.readouterr().out
    assert here.epochs(run) == [1]


def test_from_the_server_alone_by_the_id_alone(
    start: Callable[..., Started], server: Server, here: InProcess, undisturbed: Store,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As on another machine: nothing of the run's folder is left, and nothing but its id is typed."""
    store = InProcess(here.cwd, server.uri, "elsewhere", here.monkeypatch)
    run = start(*SHORT, "epochs=4000", f"tracking.uri={server.uri}", "tracking.experiment=elsewhere")
    wait_for_epochs(run, here.cwd, 4)
    (left,) = store.runs
    deadline = time.monotonic() + 60
    while "checkpoints/last.pt" not in store.artifacts(left, "checkpoints"):
        assert time.monotonic() < deadline and run.poll() is None, "the server has no checkpoint"
        time.sleep(0.1)
    kill(run)
    shutil.rmtree(here.cwd / "outputs")
    # No recipe; stops at an epoch that is far enough, whichever one the server has.
    there = max(store.epochs(left))
    store.train(f"resume={left.info.run_id}", stop_after=there + 2, recipe=())
    resumed = re.search(rf"after epoch (\d+) of run {left.info.run_id}", capsys.readouterr().out)
    assert resumed is not None and int(resumed[1]) >= 1, "from the server's checkpoint, not from the start"
    (after,) = store.runs
    assert after.info.run_id == left.info.run_id and after.info.status == "KILLED"
    (whole,) = undisturbed.runs
    for key in SERIES:
        got = store.history(after, key)
        assert [step for step, _ in got] == list(range(1, there + 3))
        assert got[:12] == undisturbed.history(whole, key)[: len(got)]


def test_another_config_is_named_by_its_keys(here: InProcess) -> None:
    here.train("epochs=4000", stop_after=1)
    (left,) = here.runs
    for given in ("true", left.info.run_id):
        with pytest.raises(UserError) as told:
            here.train("epochs=4000", "optimizer.lr=0.01", "model.pooling=max", f"resume={given}")
        assert "optimizer.lr (0.002 there, 0.01 here)" in str(told.value)
        assert "model.pooling (avg there, max here)" in str(told.value)
    with pytest.raises(UserError, match="there is no such run"):
        here.train("resume=0123456789abcdef0123456789abcdef")
    assert len(here.runs) == 1


def test_more_epochs_than_before(here: InProcess) -> None:
    """A finished run is the beginning of a longer one, if the schedule does not depend on its length."""
    here.train("epochs=2")
    here.train("epochs=4", "resume=true")
    longer, shorter = here.runs
    assert (longer.data.params["epochs"], shorter.data.params["epochs"]) == ("4", "2")
    assert longer.data.tags["lenetexp.continues"] == shorter.info.run_id
    here.train("epochs=4")
    whole = here.runs[0]
    assert whole.info.run_id != longer.info.run_id
    for key in (*SERIES, *ONCE):
        assert here.history(longer, key) == here.history(whole, key)
    here.train("scheduler=cosine", "epochs=1")
    with pytest.raises(UserError, match="spreads the learning rate over all epochs"):
        here.train("scheduler=cosine", "epochs=2", "resume=true")


def test_a_run_that_is_running_is_not_resumed_by_another_command(here: InProcess) -> None:
    here.train("epochs=9", stop_after=1)
    (run,) = here.runs
    held = Journal(Path(run.data.tags["lenetexp.folder"]))
    with pytest.raises(UserError, match="another process is running this; end it first"):
        here.train("epochs=9", "resume=true")  # it is ending: MLflow says so already
    here.client.update_run(run.info.run_id, status="RUNNING")
    with pytest.raises(UserError, match=f"resume: run {run.info.run_id} is running on this machine; end it first"):
        here.train("epochs=9", "resume=true")
    held.close()
    here.train("epochs=9", "resume=true", stop_after=2)
    assert here.epochs(run) == [1, 2]


def test_offline_first_and_sent_later(
    here: InProcess, undisturbed: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No store at all, killed and resumed; then sent, and sent again: everything once."""

    def send(uri: str = here.uri) -> str:
        capsys.readouterr()
        values = composed(f"tracking.uri={uri}", name="sync")
        sync(check_config(SyncConfig, values), values, Path("synced"))
        return capsys.readouterr().out

    def drop_lines(*kinds: str) -> None:
        """As if the process had been killed before it wrote them."""
        (reader,) = journals(here.cwd)
        lines = reader.path.read_text().splitlines(keepends=True)
        reader.path.write_text("".join(line for line in lines if not any(f'"{kind}"' in line for kind in kinds)))

    database = here.cwd / "outputs/mlflow.db"
    database.rename(here.cwd / "kept.db")
    offline = [LENGTH, "tracking.offline=true"]
    here.train(*offline, stop_after=3)
    drop_lines("files", "end")
    here.train(*offline, "resume=true", pictures=True)
    assert not database.exists()
    (here.cwd / "kept.db").rename(database)
    assert " 1 sent to" in send()
    assert_same_record(here, undisturbed)
    drop_lines("sent", "created")
    assert " 1 sent to" in send()
    assert_same_record(here, undisturbed)
    out = send("sqlite:///other.db")
    assert f"is in {here.uri}" in out and " 0 sent to" in out


def test_a_resumed_run_touches_no_other_runs_folder(here: InProcess, tmp_path: Path) -> None:
    here.train("epochs=1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    values = composed("experiment=smoke", "device=cpu", "epochs=2", "resume=true", f"tracking.uri={here.uri}")
    with pytest.raises(UserError, match="must be a new or an empty folder"):
        experiment.run(check_config(RunConfig, values), values, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_pictures_may_move_but_not_change(here: InProcess, tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures")
    here.train("dataset=image_folder", "dataset.root=pictures", "epochs=1")
    (tmp_path / "pictures").rename(tmp_path / "moved")
    moved = ["dataset=image_folder", "dataset.root=moved"]
    here.train(*moved, "epochs=2", f"resume={here.runs[0].info.run_id}")
    assert here.runs[0].data.tags["lenetexp.continues"] == here.runs[1].info.run_id
    shutil.copy(tmp_path / "moved/light/1.png", tmp_path / "moved/dark/0.png")
    splits._loaded.clear()  # as in a new process
    with pytest.raises(UserError, match="was trained on other images than these"):
        here.train(*moved, "epochs=3", f"resume={here.runs[0].info.run_id}")


# ---- killed again and again ----

RECIPES = {
    "sgd + step": ["optimizer=sgd", "scheduler=step", "epochs=60"],
    "adam + onecycle + augmentation": [
        "optimizer=adam", "scheduler=onecycle", "epochs=40",
        "dataset.augment={shift:2,rotate:10,scale:0.1}",
    ],
    "rmsprop + plateau": ["optimizer=rmsprop", "scheduler=plateau", "model.activation=relu", "epochs=60"],
    "adamw + warmup_cosine + bf16": [
        "optimizer=adamw", "scheduler=warmup_cosine", "device.precision=bf16", "epochs=30",
    ],
    "tutorial on 10,000 MNIST images": ["experiment=tutorial", "dataset.root=mnist"],
}  # fmt: skip


def write_first_10_000(mnist_root: Path, folder: Path) -> None:
    """MNIST with its first 10,000 training images, in the files' own format."""
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    for name, head, size in (("train-images-idx3-ubyte", 16, 784), ("train-labels-idx1-ubyte", 8, 1)):
        content = (mnist_root / "MNIST/raw" / name).read_bytes()
        count = (10_000).to_bytes(4, "big")
        (raw / name).write_bytes(content[:4] + count + content[8:head] + content[head : head + 10_000 * size])
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        shutil.copy(mnist_root / "MNIST/raw" / name, raw / name)


def epochs_done(cwd: Path) -> list[Epoch]:
    found = journals(cwd)
    return found[-1].select(Epoch) if found else []


def epoch_seconds(cwd: Path) -> float:
    gaps = [later.time - earlier.time for earlier, later in pairwise(epochs_done(cwd))]
    return statistics.median(gaps) / 1000 if gaps else 0.3


def events_written(cwd: Path) -> int:
    found = journals(cwd)
    return len(found[-1].events) if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_killed_at_random_moments(name: str, tmp_path: Path, kills: int, request: pytest.FixtureRequest) -> None:
    """As many kills as --kills says, spread over the run, at random moments of its epochs."""
    killed, whole = Store(tmp_path / "killed"), Store(tmp_path / "whole")
    for store in (killed, whole):
        store.cwd.mkdir()
        if "dataset.root=mnist" in RECIPES[name]:
            write_first_10_000(request.getfixturevalue("mnist_root"), store.cwd / "mnist")
    words, draw, at = [*RECIPES[name], "device.threads=1"], random.Random(name), [0]
    total = int(next((w for w in words if w.startswith("epochs=")), "epochs=10").removeprefix("epochs="))
    for left in range(kills, 0, -1):
        before = events_written(killed.cwd)
        run = start_run(*words, "resume=true", cwd=killed.cwd)
        try:
            while events_written(killed.cwd) <= before:
                assert run.poll() is None, run.communicate()
                time.sleep(0.01)
            # Some epochs further, if there are enough, and then at any moment of the next one.
            room = (total - at[-1] - 2) / left
            further = draw.randint(0, 2) if room > 2 else int(draw.random() < room)
            wait_for_epochs(run, killed.cwd, at[-1] + further)
            time.sleep(draw.uniform(0, epoch_seconds(killed.cwd)))
            assert run.poll() is None, f"finished before it was killed {kills} times: {run.communicate()}"
        finally:
            kill(run)
        at.append(len(epochs_done(killed.cwd)))
    done = run_script("run", *words, "resume=true", cwd=killed.cwd, timeout=280)
    assert done.returncode == 0, done.stderr
    assert run_script("run", *words, cwd=whole.cwd, timeout=280).returncode == 0
    assert_same_record(killed, whole)
    print(f"| {name} | {kills} | after epochs {', '.join(map(str, at[1:]))} | equal |")
