"""Mistakes, through the command line: one line that says what is wrong, and nothing left behind."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from conftest import PROJECT, Command, run_script
from lenetexp import tracking
from lenetexp.config import UserError

Done = subprocess.CompletedProcess[str]

# Loads nothing heavy: judged before torch is imported.
IN_THE_CONFIG = {
    "optimizer.lr=-1": ["optimizer.lr=-1", "a number above 0"],
    "optimizer.lr=abc": ["optimizer.lr=abc", "a number above 0"],
    "optimizer.lrr=0.1": ["optimizer.lrr=0.1", "no such setting", "lr, momentum", "did you mean lr?"],
    "optimizer.momentum=2": ["optimizer.momentum=2", "from 0 to below 1"],
    "optimizer.lr==": ["optimizer.lr=="],
    "epochs=0": ["epochs=0", "a whole number, 1 or more"],
    "epochs=": ["epochs=", "a whole number, 1 or more"],
    "batch_size=0": ["batch_size=0", "a whole number, 1 or more"],
    "model=lenett": ["model=lenett", "must be one of lenet", "did you mean lenet?"],
    "modell=lenet": ["modell=lenet", "model, optimizer, scheduler", "did you mean model?"],
    "model.activation=sigmoidd": [
        "model.activation=sigmoidd",
        "gelu or scaled_tanh",
        "did you mean sigmoid?",
    ],
    "dataset.validation=1.5": ["dataset.validation=1.5", "above 0 and below 1", '"test"'],
    "dataset=image_folder": ["dataset.root", "must be given"],
    "experiment=tut": ["experiment=tut", "smoke, tutorial"],
    "+foo=1": ["foo=1", "no such setting"],
    "hydra.run.dir=file/below": ["file/below", "Not a directory"],
}
# What torch itself refuses: judged in process by test_optim and test_models, too.
BY_TORCH = {
    "model._target_=torch.nn.Identity": ["model: Identity", "2×10 logits", "not (2, 1, 28, 28)"],
    "scheduler=onecycle optimizer=adagrad": ["scheduler: OneCycleLR", "momentum", "cycle_momentum"],
    "optimizer.nesterov=true optimizer.momentum=0": ["optimizer: SGD", "momentum=0", "nesterov=True"],
}
# Torch is there by now, but no run has begun.
WITH_TORCH = {
    "dataset=image_folder dataset.root=empty": ["dataset.root=empty", "no pictures", ".png"],
    "tracking.uri=http://127.0.0.1:9": ["tracking.uri=http://127.0.0.1:9", "does not answer", "SQLite"],
    "tracking.uri=mlruns": ["tracking.uri=mlruns", "sqlite:///outputs/mlflow.db", "http://127.0.0.1:5000"],
}
IN_PREDICT = {
    "count=0": ["count=0", "a whole number, 1 or more"],
    "traking.uri=x": ["traking.uri=x", "no such setting", "did you mean tracking?"],
    "run.x=latest": ["run.x=latest", "run has no settings inside"],
    "runn=latest": ["runn=latest", "no such setting", "did you mean run?"],
    "run=4d1f": ["outputs/mlflow.db is not there", "no run was recorded yet"],
    "images=missing.png": ["images=missing.png", "no pictures there", ".png"],
}
# Over a store with one run.
IN_PREDICT_WITH_A_RUN = {
    "run=4d1f": ["run=4d1f", "no such run", "latest, best or the id"],
    "tracking.experiment=Default": ["run=latest", "no finished run", "scripts/run.py"],
    "images=file": ["file cannot be read as a picture"],
}


def one_sentence(done: Done, *fragments: str) -> None:
    """The command failed, and said so in one line on stderr that holds all of `fragments`."""
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


def nothing_is_left(folder: Path) -> None:
    """No store and no folder of a run or prediction."""
    assert not list(folder.rglob("mlflow.db*"))
    assert not list(folder.glob("outputs/*/*"))


def cases(table: dict[str, list[str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("overrides", "fragments"), table.items(), ids=list(table))


@cases({**IN_THE_CONFIG, **WITH_TORCH})
def test_a_run_that_cannot_be(
    command: Command, tmp_path: Path, overrides: str, fragments: list[str]
) -> None:
    (tmp_path / "file").write_text("a regular file")
    (tmp_path / "empty").mkdir()
    one_sentence(command("run", *overrides.split()), *fragments)
    nothing_is_left(tmp_path)


@pytest.mark.slow
@cases(BY_TORCH)
def test_a_run_that_torch_refuses(
    command: Command, tmp_path: Path, overrides: str, fragments: list[str]
) -> None:
    one_sentence(command("run", *overrides.split()), *fragments)
    nothing_is_left(tmp_path)


def test_a_folder_that_holds_files_is_not_written_into(command: Command, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/config.yaml").write_text("a former run's")
    done = command("run", "experiment=smoke", "hydra.run.dir=full")
    one_sentence(done, "hydra.run.dir=", "full", "must be a new or an empty folder")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["config.yaml"]
    assert (tmp_path / "full/config.yaml").read_text() == "a former run's"
    nothing_is_left(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there(command: Command, tmp_path: Path) -> None:
    one_sentence(command("run", "device=cuda"), "device=cuda", "must be auto or", "cpu")
    nothing_is_left(tmp_path)


def test_mnist_without_files_and_without_network(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which files to put where, and never trains on anything else."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    (tmp_path / "empty").mkdir()
    done = command("run", "dataset=mnist", "dataset.root=empty", timeout=30)
    files = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    files += ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    one_sentence(done, "MNIST", "dataset.root=empty", *files, "empty/MNIST/raw", "dataset=digits")
    nothing_is_left(tmp_path)
    assert not list((tmp_path / "empty").iterdir())


def write_mnist(root: Path, images: int = 20, labels: int = 20) -> Path:
    """The four files in MNIST's format; so many random images and labels in each. Gives their folder."""
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        head = np.array([0x0803, images, 28, 28], dtype=">u4").tobytes()
        pixels = rng.integers(0, 256, images * 28 * 28, dtype=np.uint8).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels)
        head = np.array([0x0801, labels], dtype=">u4").tobytes()
        classes = (np.arange(labels) % 10).astype(np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + classes)
    return raw


def test_a_file_that_is_cut_short(command: Command, tmp_path: Path) -> None:
    file = write_mnist(tmp_path / "root") / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    done = command("run", "dataset=mnist", "dataset.root=root")
    whole = 16 + 20 * 28 * 28
    one_sentence(done, "t10k-images-idx3-ubyte", "cut short", f"{whole - 1:,} bytes", f"{whole:,}")
    nothing_is_left(tmp_path)


def test_images_and_labels_that_disagree_in_number(command: Command, tmp_path: Path) -> None:
    write_mnist(tmp_path / "root", images=20, labels=19)
    done = command("run", "dataset=mnist", "dataset.root=root")
    one_sentence(done, "train-images-idx3-ubyte", "20 images", "train-labels-idx1-ubyte", "19 labels")
    nothing_is_left(tmp_path)


@cases(IN_PREDICT)
def test_a_prediction_that_cannot_be(
    command: Command, tmp_path: Path, overrides: str, fragments: list[str]
) -> None:
    one_sentence(command("predict", overrides), *fragments)
    nothing_is_left(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one run was made."""
    folder = tmp_path_factory.mktemp("trained")
    done = run_script("run", "experiment=smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "file").write_text("no picture")
    return folder


@cases(IN_PREDICT_WITH_A_RUN)
def test_a_prediction_that_cannot_be_over_a_store(
    trained: Path, overrides: str, fragments: list[str]
) -> None:
    one_sentence(run_script("predict", overrides, cwd=trained), *fragments)
    assert not list(trained.glob("outputs/predictions/*"))


def imported(script: str, *arguments: str, cwd: Path) -> tuple[Done, set[str]]:
    """The command as it ended, and the packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(PROJECT / "scripts" / f"{script}.py"), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=60,
        env={**os.environ, "COMP_LINE": "python scripts/run.py optimizer=ada"},
    )  # fmt: skip
    # import time: self | cumulative | name
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return done, {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("run", "--help", ["optimizer: adagrad, adam", "\nbatch_size: ", "scripts/predict.py run=latest"]),
        ("run", "--cfg job optimizer.lr=0.3", ["optimizer:", "  lr: 0.3", "\ndataset:", "\nepochs: "]),
        ("run", "-sc query=bash", ["optimizer=adagrad optimizer=adam optimizer=adamw"]),
        ("predict", "--help", ["run: latest", "count: 10", "scripts/predict.py run=best"]),
        ("predict", "--cfg job count=3", ["run: latest", "count: 3"]),
    ],
)  # fmt: skip
def test_what_is_looked_up_answers_without_anything_heavy(
    tmp_path: Path, script: str, arguments: str, expected: list[str]
) -> None:
    done, packages = imported(script, *arguments.split(), cwd=tmp_path)
    assert done.returncode == 0
    for fragment in expected:
        assert fragment in done.stdout
    assert "hydra" in packages, "the list of imports is there"
    assert not packages & {"torch", "torchvision", "mlflow", "matplotlib", "sklearn"}
    assert not list(tmp_path.iterdir()), "and leaves nothing behind"


def test_who_reads_no_further_gets_no_traceback(tmp_path: Path) -> None:
    """As in … | head."""
    run = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts/run.py"), "experiment=smoke", "epochs=1000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None and run.stderr is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(60) == 141
    assert run.stderr.read() == ""


class Gone:
    """A client whose server does not answer."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: object, **__: object) -> Any:
            raise MlflowException(f"{name}: connection refused")

        return call


def test_a_store_that_is_gone_while_it_is_read_is_told_in_a_sentence(tmp_path: Path) -> None:
    store = tracking.Store(cast(Any, Gone()), "http://me:secret@127.0.0.1:9", "1")
    some_run = cast(Any, SimpleNamespace(info=SimpleNamespace(run_id="4d1f")))
    asked: list[Callable[[], object]] = [
        lambda: tracking.search(store, "tags.a = 'b'"),
        lambda: tracking.find_run(store, "best"),
        lambda: tracking.find_run(store, "4d1f"),
        lambda: tracking.find_sweep(store, "latest"),
        lambda: tracking.read_text(store, "4d1f", "sweep.json"),
        lambda: tracking.Stored(store, some_run).history("a"),
        lambda: tracking.start_sweep(store, "lr", "1234", tmp_path, resume=False),
        lambda: tracking.Recorder(store, "4d1f").untag("a"),
    ]
    for ask in asked:
        with pytest.raises(UserError, match="connection refused") as told:
            ask()
        assert "secret" not in str(told.value) and "127.0.0.1:9" in str(told.value)
