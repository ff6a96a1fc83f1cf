"""A run that was interrupted goes on as if it had not been; docs/reliability.md tells what is promised."""

import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from conftest import MNIST, Server, Started, run_script
from lenetexp import checkpoint, config, experiment, journal, train
from lenetexp.config import RunConfig, UserError
from lenetexp.interrupt import Interrupted
from lenetexp.journal import Journal
from lenetexp.report import Progress
from lenetexp.tracking import Recorder
from lenetexp.train import Training
from test_config import OPTIONS, composed
from test_train import make_data

CHOICES = [o for o in OPTIONS if o.startswith(("optimizer=", "scheduler="))]
SERIES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr")
ONCE = ("best/epoch", "best/val_accuracy", "best/val_loss", "test/loss", "test/accuracy")


# ---- the state, within one process ----


def trained(words: list[str], stop_after: int, before: Path | None = None) -> Training:
    """A training of easy images up to an epoch, begun anew or from a checkpoint."""
    settings = config.check(RunConfig, composed("epochs=5", "model.activation=tanh", *words))
    images = make_data(70)
    training = experiment._build(settings, images, torch.device("cpu"))
    if before is not None:
        training.load_state_dict(checkpoint.load(before))
    forward = experiment._forward(training.model, settings, torch.device("cpu"))
    epochs = train.fit(
        training, images, forward, epochs=5, batch_size=16, seed=3,
        augment=settings.dataset.augment, clip_norm=settings.clip_norm, patience=settings.patience,
    )  # fmt: skip
    for _ in islice(epochs, stop_after - training.epoch):
        pass
    return training


@pytest.mark.parametrize(
    "words",
    [
        *([choice] for choice in CHOICES),
        ["optimizer=adamw", "scheduler=onecycle", "dataset.augment={shift:2,rotate:10,scale:0.1}"],
        ["optimizer=sgd", "device.precision=bf16", "clip_norm=0.5"],
        ["optimizer=rmsprop", "scheduler=plateau", "patience=1"],
    ],
    ids=" ".join,
)
def test_a_checkpoint_holds_all_that_decides_the_rest(words: list[str], tmp_path: Path) -> None:
    whole, half = trained(words, 5), trained(words, 2)
    checkpoint.save(tmp_path / "last.pt", half.state_dict())
    resumed = trained(words, 5, before=tmp_path / "last.pt")
    assert told(resumed) == told(whole)
    same(resumed.model.state_dict(), whole.model.state_dict())
    same(resumed.best_weights or {}, whole.best_weights or {})
    assert str(resumed.optimizer.state_dict()) == str(whole.optimizer.state_dict())


def told(training: Training) -> list[dict[str, Any]]:
    """The history without what depends on the clock."""
    return [{k: v for k, v in vars(r).items() if k != "images_per_second"} for r in training.history]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other) and one
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


# ---- through the command line ----


def runs_of(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name("lenetexp").experiment_id]))


def store_of(cwd: Path) -> str:
    return f"sqlite:///{cwd}/outputs/mlflow.db"


def history(uri: str, run: Run, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, key)]


def book(cwd: Path) -> list[journal.Event]:
    """The newest journal below a folder; empty where there is none yet."""
    paths = sorted(cwd.glob("outputs/runs/*/journal.jsonl"), key=lambda path: path.stat().st_mtime)
    return journal.read(paths[-1]) if paths else []


def wait_for_epochs(run: Started, cwd: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if sum(event["event"] == "epoch" for event in book(cwd)) >= count:
            return
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    raise AssertionError(f"no {count} epochs within two minutes")


def kill(run: Started) -> None:
    os.killpg(run.pid, signal.SIGKILL)
    run.wait(20)


def compare(cwd: Path, undisturbed: Path) -> None:
    """One finished run in each folder's store: the same weights and the same metrics, each step once."""
    uri, other = store_of(cwd), store_of(undisturbed)
    (run,), (whole,) = runs_of(uri), runs_of(other)
    assert (run.info.status, whole.info.status) == ("FINISHED", "FINISHED")
    for key in (*SERIES, *ONCE):
        assert history(uri, run, key) == history(other, whole, key), key
    steps = [step for step, _ in history(uri, run, "val/loss")]
    assert steps == list(range(1, len(steps) + 1))
    folders = [Path(each.data.tags["lenetexp.folder"]) for each in (run, whole)]
    same(*(checkpoint.load(folder / "checkpoints/best.pt") for folder in folders))
    last = [checkpoint.load(folder / "checkpoints/last.pt") for folder in folders]
    same(last[0]["model"], last[1]["model"])


@dataclass
class Here:
    """Runs within this process, in a folder of their own."""

    cwd: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def uri(self) -> str:
        return store_of(self.cwd)

    @property
    def runs(self) -> list[Run]:
        """The newest first."""
        return runs_of(self.uri)

    def train(
        self, *words: str, stop_after: int | None = None, recipe: Sequence[str] = ("experiment=smoke",)
    ) -> None:
        """A run; where it should stop after an epoch, a SIGTERM comes then."""
        # MLflow keeps a relative store's file open from one folder to the next.
        values = composed(*recipe, "device=cpu", f"tracking.uri={self.uri}", *words)
        values["given"] = [*recipe, *words]
        line = Progress.line

        def and_stop(progress: Progress, record: train.Epoch) -> None:
            line(progress, record)
            if record.epoch == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)

        with self.monkeypatch.context() as patched:
            patched.setattr(Progress, "line", and_stop)
            folder = Path(f"outputs/runs/{len(list(Path().glob('outputs/runs/*')))}")
            with suppress(Interrupted):
                experiment.run(config.check(RunConfig, values), values, folder)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Here:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs/mlflow.db")
    return Here(tmp_path, monkeypatch)


SHORT = ["experiment=smoke", "epochs=12"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("undisturbed")
    assert run_script("run", *SHORT, cwd=cwd).returncode == 0
    return cwd


def test_killed_and_given_again_it_ends_as_one_that_was_not(
    start: Callable[..., Started], tmp_path: Path, undisturbed: Path
) -> None:
    run = start(*SHORT)
    wait_for_epochs(run, tmp_path, 3)
    kill(run)
    (left,) = runs_of(store_of(tmp_path))
    assert left.info.status == "RUNNING"
    done = run_script("run", *SHORT, "resume=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"of run {left.info.run_id}" in done.stdout
    compare(tmp_path, undisturbed)
    again = run_script("run", *SHORT, "resume=true", cwd=tmp_path)
    assert again.returncode == 0 and "finished already" in again.stdout
    assert len(runs_of(store_of(tmp_path))) == 1


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_and_the_command_that_is_printed_goes_on(
    start: Callable[..., Started], tmp_path: Path, undisturbed: Path, signum: int, code: int
) -> None:
    run = start(*SHORT, "epochs=4000")
    wait_for_epochs(run, tmp_path, 2)
    asked = time.monotonic()
    run.send_signal(signum)
    out, errors = run.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert (run.returncode, errors) == (code, "")
    (killed,) = runs_of(store_of(tmp_path))
    assert killed.info.status == "KILLED"
    command = out.splitlines()[-1].removeprefix("To go on: python ")
    assert command.endswith(f"resume={killed.info.run_id}")
    script, *words = command.split()
    assert script.endswith("run.py")
    # As many epochs as a test has time for: another number, which has to be refused before it is given.
    other = run_script("run", *[w for w in words if "epochs" not in w], "epochs=12", cwd=tmp_path)
    assert other.returncode == 1 and "epochs (4000 there, 12 here)" in other.stderr
    goes_on = start(*words)
    before = [event["epoch"] for event in book(tmp_path) if event["event"] == "epoch"][-1]
    wait_for_epochs(goes_on, tmp_path, before + 2)
    goes_on.send_signal(signal.SIGINT)
    goes_on.communicate(timeout=30)
    (again,) = runs_of(store_of(tmp_path))
    steps = [step for step, _ in history(store_of(tmp_path), again, "val/loss")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= before + 2


def test_from_the_server_alone_and_by_the_id_alone(
    start: Callable[..., Started], server: Server, tmp_path: Path, undisturbed: Path
) -> None:
    """As on another machine: nothing of the run's folder is there, and nothing but its id is typed."""
    uri = f"tracking.uri={server.uri}"
    run = start(*SHORT, "epochs=4000", uri, "tracking.experiment=elsewhere")
    wait_for_epochs(run, tmp_path, 4)
    client = MlflowClient(server.uri)
    there = client.get_experiment_by_name("elsewhere").experiment_id
    (left,) = client.search_runs([there])
    deadline = time.monotonic() + 60
    while "checkpoints/last.pt" not in [
        f.path for f in client.list_artifacts(left.info.run_id, "checkpoints")
    ]:
        assert time.monotonic() < deadline and run.poll() is None, "the server has no checkpoint"
        time.sleep(0.1)
    kill(run)
    shutil.rmtree(tmp_path / "outputs")
    words = [f"resume={left.info.run_id}", uri, "tracking.experiment=elsewhere"]
    goes_on = start(*words)
    wait_for_epochs(goes_on, tmp_path, 8)
    goes_on.send_signal(signal.SIGINT)
    out, _ = goes_on.communicate(timeout=30)
    went_on = re.search(rf"after epoch (\d+) of run {left.info.run_id}", out)
    assert went_on is not None and int(went_on[1]) >= 1, "from the server's checkpoint, not from the start"
    (after,) = client.search_runs([there])
    assert after.info.run_id == left.info.run_id and after.info.status == "KILLED"
    got = {key: history(server.uri, after, key) for key in SERIES}
    steps = [step for step, _ in got["val/loss"]]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 8
    (whole,) = runs_of(store_of(undisturbed))
    for key in SERIES:
        assert got[key][:12] == history(store_of(undisturbed), whole, key)[: len(got[key])]


def test_another_config_is_told_by_its_keys(here: Here) -> None:
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


def test_more_epochs_than_before(here: Here) -> None:
    """A finished run is the beginning of a longer one, where the schedule does not depend on its length."""
    here.train("epochs=2")
    here.train("epochs=5", "resume=true")
    longer, shorter = here.runs
    assert (longer.data.params["epochs"], shorter.data.params["epochs"]) == ("5", "2")
    assert longer.data.tags["lenetexp.continues"] == shorter.info.run_id
    here.train("epochs=5")
    whole = here.runs[0]
    assert whole.info.run_id != longer.info.run_id
    for key in (*SERIES, *ONCE):
        assert history(here.uri, longer, key) == history(here.uri, whole, key)
    here.train("scheduler=cosine", "epochs=1")
    with pytest.raises(UserError, match="lays out the learning rate over all epochs"):
        here.train("scheduler=cosine", "epochs=2", "resume=true")


def test_offline_first_and_sent_later(
    start: Callable[..., Started], tmp_path: Path, undisturbed: Path
) -> None:
    """No store at all, interrupted and gone on with; then sent, and sent again: everything once."""
    offline = [*SHORT, "tracking.offline=true"]
    run = start(*offline)
    wait_for_epochs(run, tmp_path, 3)
    kill(run)
    done = run_script("run", *offline, "resume=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "outputs/mlflow.db").exists()
    sent = run_script("sync", cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    compare(tmp_path, undisturbed)
    (path,) = tmp_path.glob("outputs/runs/*/journal.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"sent"' not in line and '"created"' not in line))
    assert run_script("sync", cwd=tmp_path).returncode == 0, "as if killed before it noted what it sent"
    compare(tmp_path, undisturbed)
    other = run_script("sync", "tracking.uri=sqlite:///other.db", cwd=tmp_path)
    assert "is in sqlite:///outputs/mlflow.db" in other.stdout and " 0 sent to" in other.stdout


def test_two_processes_do_not_go_on_with_one_run(tmp_path: Path) -> None:
    held = journal.Journal(tmp_path)
    with pytest.raises(UserError, match="another process has this run in hand"):
        journal.Journal(tmp_path)
    held.close()
    journal.Journal(tmp_path).close()


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    first = journal.Journal(tmp_path)
    first.write("start", run_id="a", tags={}, epochs=1)
    first.close()
    with first.path.open("a") as file:
        file.write('{"event": "epo')
    assert [event["event"] for event in journal.read(first.path)] == ["start"]
    second = journal.Journal(tmp_path)
    second.write("end", status="KILLED")
    second.close()
    assert [event["event"] for event in journal.read(first.path)] == ["start", "end"]


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


def first_10_000(folder: Path) -> None:
    """MNIST with its first 10,000 training images, in the files' own format."""
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    for name, head, size in (("train-images-idx3-ubyte", 16, 784), ("train-labels-idx1-ubyte", 8, 1)):
        content = (MNIST / "MNIST/raw" / name).read_bytes()
        count = (10_000).to_bytes(4, "big")
        (raw / name).write_bytes(
            content[:4] + count + content[8:head] + content[head : head + 10_000 * size]
        )
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        shutil.copy(MNIST / "MNIST/raw" / name, raw / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_killed_at_random_moments(
    name: str, start: Callable[..., Started], tmp_path: Path, kills: int, request: Any
) -> None:
    """As many kills as --kills says, spread over the run, at random moments of its epochs."""
    cwds = [tmp_path / "killed", tmp_path / "whole"]
    for cwd in cwds:
        cwd.mkdir()
        if "dataset.root=mnist" in RECIPES[name]:
            request.getfixturevalue("mnist_root")
            first_10_000(cwd / "mnist")
    words, draw, epochs = [*RECIPES[name], "device.threads=1"], random.Random(name), [0]
    total = int(next((w for w in words if w.startswith("epochs=")), "epochs=10").removeprefix("epochs="))
    for left in range(kills, 0, -1):
        before = len(book(cwds[0]))
        run = start(*words, "resume=true", cwd=cwds[0])
        while len(book(cwds[0])) <= before:
            assert run.poll() is None, run.communicate()
            time.sleep(0.01)
        # Some epochs further, where there are enough, and then at any moment of the next one.
        room = (total - epochs[-1] - 2) / left
        further = draw.randint(0, 2) if room > 2 else int(draw.random() < room)
        wait_for_epochs(run, cwds[0], epochs[-1] + further)
        time.sleep(draw.uniform(0, epoch_seconds(book(cwds[0]))))
        assert run.poll() is None, f"it finished before it was killed {kills} times: {run.communicate()}"
        kill(run)
        epochs.append(sum(event["event"] == "epoch" for event in book(cwds[0])))
    done = run_script("run", *words, "resume=true", cwd=cwds[0], timeout=280)
    assert done.returncode == 0, done.stderr
    assert run_script("run", *words, cwd=cwds[1], timeout=280).returncode == 0
    compare(*cwds)
    print(f"| {name} | {kills} | after epochs {', '.join(map(str, epochs[1:]))} | equal |")


def epoch_seconds(events: list[journal.Event]) -> float:
    times = [event["time"] for event in events if event["event"] == "epoch"]
    gaps = [b - a for a, b in pairwise(times)]
    return statistics.median(gaps) / 1000 if gaps else 0.3


# ---- the tracker goes away ----


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_server_that_goes_away_in_the_middle(
    start: Callable[..., Started], tmp_path: Path, undisturbed: Path, comes_back: bool
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    server.start()
    try:
        words = [
            "optimizer=adam",
            "optimizer.lr=1e-3",
            "scheduler=constant",
            "epochs=100",
            "device.threads=1",
        ]
        run = start(*words, f"tracking.uri={server.uri}")
        wait_for_epochs(run, tmp_path, 5)
        server.stop()
        if comes_back:
            time.sleep(20)
            server.start()
        out, errors = run.communicate(timeout=200)
        assert (run.returncode, errors) == (0, ""), errors
        assert out.count("what is missing there is kept") == 1, "the user is told once"
        if not comes_back:
            assert "python scripts/sync.py folder=" in out
            server.start()
            sent = run_script("sync", f"tracking.uri={server.uri}", cwd=tmp_path)
            assert sent.returncode == 0, sent.stderr
        (got,) = runs_of(server.uri)
        assert got.info.status == "FINISHED"
        for key in (*SERIES, "images_per_second"):
            assert [step for step, _ in history(server.uri, got, key)] == list(range(1, 101)), key
        for key in ONCE:
            assert len(history(server.uri, got, key)) == 1, key
        names = [entry.path for entry in MlflowClient(server.uri).list_artifacts(got.info.run_id)]
        assert {"checkpoints", "config.yaml", "figures", "reproduce"} <= set(names)
    finally:
        server.stop()


# ---- disks ----


Narrow = tuple[Path, Callable[[Started], Any], Callable[[], Any]]


@pytest.fixture(params=["limit", pytest.param("tmpfs", marks=pytest.mark.slow)])
def narrow(request: Any, tmp_path: Path) -> Iterator[Narrow]:
    """A folder; what makes it full for a run that is going on; what makes room again."""
    cwd = tmp_path / "disk"
    cwd.mkdir()
    if request.param == "limit":

        def too_large(run: Started) -> None:
            psutil.Process(run.pid).rlimit(psutil.RLIMIT_FSIZE, (2000, 2000))

        yield cwd, too_large, lambda: None
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(cwd)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")

    def fill(run: Started) -> None:
        with suppress(OSError), (cwd / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    yield cwd, fill, (cwd / "filler").unlink
    subprocess.run(["umount", "-l", str(cwd)], check=True)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_with_room(
    narrow: Narrow,
    start: Callable[..., Started],
    undisturbed: Path,
) -> None:
    cwd, fill, make_room = narrow
    run = start(*SHORT, "epochs=3000", cwd=cwd)
    wait_for_epochs(run, cwd, 3)
    fill(run)
    out, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert errors.startswith("error: ") and len(errors.splitlines()) == 1
    assert "cannot be written" in errors and ("No space left" in errors or "too large" in errors), errors
    (folder,) = cwd.glob("outputs/runs/*")
    before = len(checkpoint.load(folder / "checkpoints/last.pt")["history"])
    checkpoint.load(folder / "checkpoints/best.pt")
    assert before >= 2
    make_room()
    goes_on = start(*SHORT, "epochs=3000", "resume=true", cwd=cwd)
    wait_for_epochs(goes_on, cwd, before + 3)
    goes_on.send_signal(signal.SIGINT)
    out, _ = goes_on.communicate(timeout=60)
    assert f"after epoch {before} of run" in out
    (run_in_mlflow,) = runs_of(store_of(cwd))
    assert run_in_mlflow.info.status == "KILLED"
    (whole,) = runs_of(store_of(undisturbed))
    for key in SERIES:
        got = history(store_of(cwd), run_in_mlflow, key)
        assert [step for step, _ in got] == list(range(1, len(got) + 1))
        assert got[:12] == history(store_of(undisturbed), whole, key)[: len(got)]


@pytest.mark.parametrize(
    "at",
    [
        "created",
        "epoch",
        "end",
        *(pytest.param(at, marks=pytest.mark.slow) for at in ("draft", "result", "files")),
    ],
)
def test_a_disk_that_is_full_at_any_line_leaves_no_run_running(here: Here, at: str) -> None:
    """The store lies elsewhere and can be told."""
    add = Journal.add

    def full(self: Journal, entry: journal.Event) -> None:
        if entry["event"] == at:
            raise UserError("journal.jsonl cannot be written (No space left on device)")
        add(self, entry)

    here.monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(UserError, match="No space left on device"):
        here.train("epochs=1")
    assert [run.info.status for run in here.runs] == ["FAILED"]


def test_a_signal_is_heard_while_a_finished_run_waits_for_its_server(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server hangs at the very end; a cluster wants its machine back."""
    asked: list[float] = []

    def hang(*_: object) -> None:
        time.sleep(0.5)
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(25)

    here.monkeypatch.setattr(Recorder, "end", hang)
    here.train("epochs=1")
    assert time.monotonic() - asked[0] < 5
    assert "python scripts/sync.py folder=outputs/runs/0" in capsys.readouterr().out


# ---- a stranger's run ----


def test_a_strangers_config_is_not_followed_out_of_what_is_trusted(here: Here, tmp_path: Path) -> None:
    """resume=ID alone takes the stored config; the record may come from anyone."""
    here.train("epochs=9", stop_after=1)
    (run,) = here.runs
    config_file = Path(run.data.tags["lenetexp.folder"]) / "config.yaml"
    trap, text = tmp_path / "trap", config_file.read_text()
    target, popen = "_target_: torch.optim.Adam", f"_target_: psutil.Popen, _args_: [[touch, {trap}]]"
    for hostile, told in (
        (f"_target_: pathlib.Path.touch\n  self: {trap}", "names what is not trusted"),
        (f"_target_: os.system\n  command: touch {trap}", "names what is not trusted"),
        (f"{target}\n  x: {{{popen}}}", "names what is not trusted"),
        (f"{target}\n  x: !!omap [a: {{{popen}}}]", "its config is damaged"),
        (f"{target}\n  x: &a [*a]", "its config is damaged"),
        (f"{target}\n  x: {'[' * 3000}", "its config is damaged"),
    ):
        assert target in text
        config_file.write_text(text.replace(target, hostile))
        with pytest.raises(UserError, match=told):
            here.train(f"resume={run.info.run_id}", recipe=())
        assert not trap.exists()


def test_a_strangers_checkpoint_is_not_taken_for_what_it_is_not(here: Here) -> None:
    """torch itself takes these, and one of them would make a fused optimizer write where it must not."""
    here.train("epochs=9", stop_after=1)
    (run,) = here.runs
    last = Path(run.data.tags["lenetexp.folder"]) / "checkpoints/last.pt"
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda state: state["optimizer"]["param_groups"][0].pop("lr"),
        lambda state: state["optimizer"]["param_groups"][0].update(lr="0.1"),
        lambda state: state["scheduler"].update(last_epoch="boo"),
        lambda state: state["history"][0].update(val_accuracy="x"),
        lambda state: state["history"][0].update(epoch=4),
        lambda state: state.pop("history"),
        lambda state: state["best_weights"].pop("c1.weight"),
    ]
    whole = last.read_bytes()
    for change in changes:
        last.write_bytes(whole)
        state = checkpoint.load(last)
        change(state)
        checkpoint.save(last, state)
        with pytest.raises(UserError, match="is not of this net and recipe"):
            here.train("epochs=9", f"resume={run.info.run_id}")
    last.write_bytes(whole)
    here.train("epochs=9", "resume=true")
    assert here.runs[0].info.status == "FINISHED"


def test_a_run_that_goes_on_touches_no_other_runs_folder(here: Here, tmp_path: Path) -> None:
    here.train("epochs=1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    values = composed("experiment=smoke", "epochs=2", "resume=true", f"tracking.uri={here.uri}")
    with pytest.raises(UserError, match="must be a new or an empty folder"):
        experiment.run(config.check(RunConfig, values), values, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_other_images_are_not_gone_on_with(here: Here, tmp_path: Path) -> None:
    for i in range(8):
        file = tmp_path / "pictures" / ("dark", "light")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), (20, 220)[i % 2] + i).save(file)
    mine = ["dataset=image_folder", "dataset.root=pictures", "epochs=1"]
    here.train(*mine)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    moved = ["dataset=image_folder", "dataset.root=moved"]
    here.train(*moved, "epochs=2", f"resume={here.runs[0].info.run_id}")
    assert here.runs[0].data.tags["lenetexp.continues"] == here.runs[1].info.run_id
    Image.new("L", (28, 28), 99).save(tmp_path / "moved/dark/0.png")
    experiment._loaded.clear()  # as in a command of its own
    with pytest.raises(UserError, match="these are not the images"):
        here.train(*moved, "epochs=3", f"resume={here.runs[0].info.run_id}")
