"""Commands as a user types them: a mistake is one line that says what is wrong, and leaves nothing behind."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import lenetexp
from helpers import PROJECT, Command, Done, InProcess, Started, composed
from lenetexp.config.identity import flatten_settings
from sample_images import MNIST_FILES, small_mnist, write_idx

# Checked before anything heavy is imported.
IN_THE_CONFIG = {
    "optimizer.lr=-1": ["optimizer.lr=-1", "a number above 0"],
    "optimizer.lr=abc": ["optimizer.lr=abc", "a number above 0"],
    "optimizer.lrr=0.1": ["optimizer.lrr=0.1", "no such setting", "lr, momentum", "did you mean lr?"],
    "lr=0.01": ["lr=0.01", "no such setting; did you mean optimizer.lr?"],
    "activaton=relu": ["activaton=relu", "no such setting", "did you mean model.activation?"],
    "optimizer.momentum=2": ["optimizer.momentum=2", "from 0 to below 1"],
    "optimizer.lr==": ["optimizer.lr==", "must be key=value as Hydra reads it (extraneous input '='"],
    "epochs=0": ["epochs=0", "a whole number, 1 or more"],
    "epochs=": ["epochs=", "a whole number, 1 or more"],
    "batch_size=0": ["batch_size=0", "a whole number, 1 or more"],
    "learning_rate=0.1": ["no such setting", "did you mean optimizer.lr?"],
    "bs=32": ["no such setting", "did you mean batch_size?"],
    "LR=0.1": ["no such setting; did you mean optimizer.lr?"],
    "optimizer=SGD": ["optimizer=SGD", "did you mean sgd?"],
    "dataset=MNIST": ["dataset=MNIST", "did you mean mnist?"],
    "device=gpu": ["device=gpu", "did you mean cuda?"],
    "scheduler=none": ["scheduler=none", "did you mean constant?"],
    "model.activation=Relu": ["model.activation=Relu", "did you mean relu?"],
    "model.activation=swish": ["model.activation=swish", "did you mean silu?"],
    "--epochs 3": ["--epochs: there is no such flag", "key=value: epochs=3"],
    "--batch-size=3 seed=1": ["--batch-size=3: there is no such flag", "key=value: batch_size=3"],
    "seed=1 --cfg jobs": ["argument --cfg/-c: invalid choice: 'jobs'"],
    "tutorial": ["tutorial: must be key=value; did you mean experiment=tutorial?"],
    "lecun_1998/svm": ["must be key=value; did you mean experiment=lecun_1998/svm?"],
    "optimizer": ["optimizer: must be key=value; did you mean optimizer=…?"],
    "epochs:3": ["epochs:3: must be key=value"],
    "experiment=svm": ["experiment=svm: must be one of", "did you mean lecun_1998/svm?"],
    "nothing": ["nothing: must be key=value"],
    "data_dir=my(files)": ["a value with such characters needs quotes", """'data_dir="my(files)"'"""],
    "model=svm optimizer.lr=0.1": ["optimizer.lr=0.1: has no effect on PolynomialSVM, which is fitted at once"],
    "model=knn batch_size=8": ["batch_size=8: has no effect on NearestNeighbours"],
    "model=linear scheduler=cosine": ["scheduler=cosine: has no effect on LinearClassifier"],
    "-m model=svm sweep=lr": ["optimizer.lr=0.001: has no effect on PolynomialSVM"],
    "-m model=lenet,svm optimizer.lr=0.1,0.2": ["optimizer.lr=0.1: has no effect on PolynomialSVM"],
    "model=lenett": ["model=lenett", "must be one of boosted_lenet_4, knn, lenet,", "did you mean lenet?"],
    "modell=lenet": ["modell=lenet", "there are experiment, sweep, scheduler", "did you mean model?"],
    "model.activation=sigmoidd": ["model.activation=sigmoidd", "gelu or scaled_tanh", "did you mean sigmoid?"],
    "dataset.validation=1.5": ["dataset.validation=1.5", "above 0 and below 1", '"test"'],
    "dataset=image_folder": ["dataset.root", "must be given"],
    "dataset=mnistt": ["dataset=mnistt", "must be one of cifar10, digits", "did you mean mnist?"],
    "experiment=tut": ["experiment=tut", "smoke, tutorial"],
    "+foo=1": ["foo=1", "no such setting"],
    "-m optimizer=sgd,adam optimizer.betas=[0.8,0.9]": [
        "optimizer.betas=[0.8,0.9]: there is no such setting; optimizer has lr, momentum",
        "if all of optimizer=sgd,adam have it, write ++optimizer.betas=[0.8,0.9]; if not, sweep those that have it",
    ],
    "-m dataset=digits,mnist dataset.root=x": ["dataset.root=x: there is no such setting", "write data_dir=x"],
    "optimizer.lr=0.1,0.2": ["optimizer.lr=0.1,0.2", "needs -m"],
    "tracking.uri=mlruns": ["tracking.uri=mlruns", "sqlite:///outputs/mlflow.db", "http://127.0.0.1:5000"],
    "hydra.run.dir=file/below": ["file/below", "Not a directory"],
}
# The first line is there by then, but no run has begun.
WITH_TORCH = {
    "model._target_=torch.nn.Identity": ["model: Identity", "2×10 logits", "not (2, 1, 28, 28)"],
    "experiment=tutorial optimizer=adam dataset=digits clip_norm=1": [
        "optimizer: Adam does not take momentum, nesterov",
        "add ~optimizer.momentum ~optimizer.nesterov",
    ],
    "+optimizer.lrr=3 clip_norm=1": ["optimizer.lrr=3: SGD has no such argument; it has ", "did you mean lr?"],
    "+model.hiden=3 clip_norm=1": ["model.hiden=3: LeNet has no such argument; it has activation"],
    "dataset=image_folder dataset.root=empty": ["dataset.root=empty", "no pictures", ".png"],
    "tracking.uri=http://127.0.0.1:9": ["tracking.uri=http://127.0.0.1:9", "does not answer", "SQLite"],
}
IN_PREDICT = {
    "count=0": ["count=0", "a whole number, 1 or more"],
    "traking.uri=x": ["traking.uri=x", "no such setting", "did you mean tracking?"],
    "threads=2": ["threads=2", "no such setting; did you mean device.threads?"],
    "photo.png": ["photo.png: must be key=value; did you mean images=photo.png?"],
    "best": ["best: must be key=value; did you mean run=best?"],
    "images=photo(1).png": ["needs quotes", """'images="photo(1).png"'"""],
    "run.x=latest": ["run.x=latest", "run has no settings inside"],
    "runn=latest": ["runn=latest", "no such setting", "did you mean run?"],
    "run=4d1f": [
        "/outputs/mlflow.db does not exist",
        "no run was recorded there yet",
        "cd to that project, or add tracking.uri=",
    ],
    "images=missing.png": ["images=missing.png", "no pictures there", ".png"],
    "-m": ["-m: only run.py takes it"],
}
# With a store that holds one run.
IN_PREDICT_WITH_A_RUN = {
    "run=4d1f": ["run=4d1f", "no such run", "latest, best, best:DATASET, a run's id"],
    "tracking.experiment=Default": ["run=latest", "no finished run", "a run is in tracking.experiment=lenetexp: run="],
    "images=file": ["file cannot be read"],
}


def assert_one_sentence(done: Done, *fragments: str, announced: bool = False) -> None:
    """The command failed, perhaps after its first line, and said so in one on stderr that holds all of `fragments`."""
    assert done.returncode != 0
    assert announced == ("clip_norm=1\n" in done.stdout) == bool(done.stdout)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


def assert_nothing_is_left(folder: Path) -> None:
    """No store and no folder of a run or prediction."""
    assert not list(folder.rglob("mlflow.db*"))
    assert not list(folder.glob("outputs/*/*"))


def cases(table: dict[str, list[str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("overrides", "fragments"), table.items(), ids=list(table))


@cases({**IN_THE_CONFIG, **WITH_TORCH})
def test_a_run_that_cannot_start(typed: Command, tmp_path: Path, overrides: str, fragments: list[str]) -> None:
    (tmp_path / "file").write_text("a regular file")
    (tmp_path / "empty").mkdir()
    assert_one_sentence(typed("run", *overrides.split()), *fragments, announced=overrides in WITH_TORCH)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("script", "overrides"), [("run", "epochs=0"), ("run", "tracking.uri=http://127.0.0.1:9"), ("predict", "count=0")]
)
def test_a_mistake_in_a_shell(command: Command, tmp_path: Path, script: str, overrides: str) -> None:
    """The same with all that a process says, to its very end."""
    known = {**IN_THE_CONFIG, **WITH_TORCH, **IN_PREDICT}
    assert_one_sentence(command(script, overrides), *known[overrides], announced=overrides in WITH_TORCH)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_says_what_it_is_before_torch_is_imported(tmp_path: Path, terminal: bool) -> None:
    """In a terminal, a line that disappears shows that it is starting."""
    (tmp_path / "torch.py").write_text("raise SystemExit(3)")
    ours, theirs = pty.openpty() if terminal else os.pipe()
    run = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts/run.py"), "optimizer=adam", "epochs=1"],
        cwd=tmp_path, stdout=theirs, env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "72"},
    )  # fmt: skip
    assert run.wait(60) == 3
    first, second, *rest = os.read(ours, 10_000).decode().splitlines()
    os.close(ours), os.close(theirs)
    assert first == "LeNet (relu, pooling=max, init=xavier) on digits, 1 epoch at batch size"
    assert second == "  16, Adam lr=0.001 betas=[0.9, 0.999], warmup_cosine, seed 0,"
    assert rest == (["  clip_norm=1", "starting …", "\x1b[K"] if terminal else ["  clip_norm=1"])


def test_a_folder_that_holds_files_is_not_overwritten(typed: Command, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/config.yaml").write_text("another run's")
    done = typed("run", "experiment=smoke", "hydra.run.dir=full")
    assert_one_sentence(done, "hydra.run.dir=", "full", "must be a new or an empty folder")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["config.yaml"]
    assert (tmp_path / "full/config.yaml").read_text() == "another run's"
    assert_nothing_is_left(tmp_path)


def test_mnist_without_files_and_without_network(
    typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which files to put where, and never trains on anything else."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    (tmp_path / "empty").mkdir()
    done = typed("run", "dataset=mnist", "dataset.root=empty")
    assert_one_sentence(
        done, "MNIST", "dataset.root=empty", *MNIST_FILES, "empty/MNIST/raw", "dataset=digits", announced=True
    )
    assert_nothing_is_left(tmp_path)
    assert not list((tmp_path / "empty").iterdir())


def test_a_data_file_that_is_cut_short(typed: Command, tmp_path: Path) -> None:
    write_idx(tmp_path / "root/MNIST/raw", small_mnist())
    file = tmp_path / "root/MNIST/raw/t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    done = typed("run", "dataset=mnist", "dataset.root=root")
    whole = 16 + 10 * 28 * 28
    assert_one_sentence(
        done, "t10k-images-idx3-ubyte", "cut short", f"{whole - 1:,} bytes", f"{whole:,}", announced=True
    )
    assert_nothing_is_left(tmp_path)


@cases(IN_PREDICT)
def test_a_prediction_that_cannot_start(typed: Command, tmp_path: Path, overrides: str, fragments: list[str]) -> None:
    assert_one_sentence(typed("predict", overrides), *fragments)
    assert_nothing_is_left(tmp_path)


@cases(IN_PREDICT_WITH_A_RUN)
def test_a_prediction_that_finds_no_run_or_picture(
    typed: Command, trained: InProcess, tmp_path: Path, overrides: str, fragments: list[str]
) -> None:
    (tmp_path / "file").write_text("no picture")
    words = [f"tracking.uri={trained.uri}", *overrides.split()]
    assert_one_sentence(typed("predict", *words), *fragments)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        (
            "run",
            "--help optimizer=adam device=cpu dataset.augment={shift:2}",
            [
                "dataset: cifar10, digits",
                "optimizer: adagrad, adam",
                "  batch_size=16                     images per optimizer step",
                "  optimizer.betas=[0.9,0.999]       decay rates of the running means",
                "  device.threads=auto               CPU threads, 1 or more; auto: one",
                "  scheduler.epochs=${epochs} ",
                "  dataset.augment.shift=2\n",
                "scripts/predict.py run=latest",
            ],
        ),
        ("run", "--cfg job optimizer.lr=0.3", ["optimizer:", "  lr: 0.3", "\ndataset:", "\nepochs: "]),
        ("run", "-sc query=bash", ["model.activation=scaled_tanh model.activation=sigmoid model.activation=silu"]),
        ("predict", "--help", ["  run=latest   ", "  count=10  ", "scripts/predict.py run=best"]),
        ("predict", "--cfg job count=3", ["run: latest", "count: 3"]),
        ("compare", "--help", ["  sweep=latest    ", "scripts/compare.py sweep=latest"]),
        ("report", "--help", ["  sweep=latest    ", "  run=null    ", "scripts/report.py run=best"]),
        ("sync", "--help", ["  folder=outputs    ", "scripts/sync.py"]),
    ],
)  # fmt: skip
def test_help_config_and_completion_import_nothing_heavy(
    tmp_path: Path, script: str, arguments: str, expected: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(PROJECT / "scripts" / f"{script}.py"), *arguments.split()],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "COMP_LINE": "python scripts/run.py model.activation=s", "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0
    for fragment in expected:
        assert fragment in done.stdout
    # import time: self | cumulative | name
    packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "hydra" in packages, "the list of imports is there"
    assert not packages & {"torch", "torchvision", "mlflow", "matplotlib", "optuna", "sklearn", "scipy", "pandas"}
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_every_command_names_the_others_and_its_version(typed: Command) -> None:
    for file in (PROJECT / "conf/hydra/help").glob("*.yaml"):
        assert "${hydra.help.footer}\n  ${lenetexp.commands:}\n" in file.read_text(), file
    commands = {path.stem for path in (PROJECT / "scripts").glob("*.py") if "cli.start" in path.read_text()}
    help_text = typed("predict", "--help").stdout
    (others,) = re.findall(r"\nOther commands: ([\s\S]+)\(python\s+scripts/NAME.py\s+--help\)\n", help_text)
    assert {*others.replace(",", "").split()} == commands - {"predict"}
    assert help_text.index("  run=") < help_text.index("  images=") < help_text.index("  count=")
    for script in commands:
        assert typed(script, "--version").stdout == f"lenetexp {lenetexp.__version__}\n"


def test_help_begins_with_what_is_typed_most(typed: Command) -> None:
    settings = re.findall(r"^  ([\w.]+)=", typed("run", "--help").stdout, re.MULTILINE)
    assert settings[:4] == ["optimizer.lr", "model.activation", "epochs", "batch_size"]
    assert {*settings} == {key for key, _ in flatten_settings(composed()) if not key.endswith("_target_")}, (
        "none is lost"
    )


def test_a_config_file_that_cannot_be_read_is_named(
    typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/own.yaml").write_text("_target_: mine.Net", encoding="utf-16")
    done = typed("run", "--config-dir=mine", "model=own")
    assert_one_sentence(done, "mine/model/own.yaml: must be text in UTF-8")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "conf/model/own.yaml")

    monkeypatch.setattr(OmegaConf, "load", refuse)
    assert_one_sentence(typed("run"), "error: conf/model/own.yaml: cannot be read or written (Permission denied)")


def test_a_space_beside_the_equals_sign(typed: Command) -> None:
    assert_one_sentence(typed("run", "epochs = 3"), "epochs = 3: must be key=value without spaces", ": epochs=3")


def test_settings_may_stand_on_both_sides_of_a_flag(typed: Command) -> None:
    done = typed("run", "epochs=3", "--cfg", "job", "seed=7")
    assert done.returncode == 0 and "\nepochs: 3\n" in done.stdout and "seed: 7\n" in done.stdout


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("# @package _global_\nepocs: 3", ["epocs=3: there is no such setting (in mine/local/machine.yaml)"]),
        ("# @package _global_\ndevice: {threads: x}", ["device.threads=x: must be", "(in mine/local/machine.yaml)"]),
        ("device: {threads: 1}", ["machine.yaml: must begin with the line # @package _global_"]),
    ],
)
def test_a_mistake_in_the_settings_of_this_machine_names_their_file(
    typed: Command, tmp_path: Path, content: str, fragments: list[str]
) -> None:
    (tmp_path / "mine/local").mkdir(parents=True)
    (tmp_path / "mine/local/machine.yaml").write_text(content)
    assert_one_sentence(typed("run", "--config-dir", "mine"), *fragments)
    if "_global_" not in content:
        assert_one_sentence(typed("sync", "--config-dir", "mine"), *fragments)
    if "threads: x" in content:
        assert "(in " not in typed("run", "--config-dir", "mine", "device.threads=y").stderr, "it was typed"


def test_a_mistake_in_a_recipe_names_its_file(typed: Command, tmp_path: Path) -> None:
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/own.yaml").write_text("_target_: torch.optim.SGD\nlr: fast")
    done = typed("run", "--config-dir=mine", "optimizer=own")
    assert_one_sentence(done, "optimizer.lr=fast: must be a number above 0 (in mine/optimizer/own.yaml)")
    (tmp_path / "mine/experiment").mkdir()
    (tmp_path / "mine/experiment/own.yaml").write_text("epochs: 3")
    done = typed("run", "--config-dir=mine", "experiment=own")
    assert_one_sentence(done, "mine/experiment/own.yaml: must begin with the line # @package _global_")
    (tmp_path / "mine/experiment/own.yaml").write_text("# @package _global_\noptimizer: {lrr: 3}")
    done = typed("run", "--config-dir=mine", "experiment=own")
    assert "SGD does not take lrr (in mine/experiment/own.yaml); add ~optimizer.lrr" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_refused_before_the_run_is_announced(typed: Command) -> None:
    assert_one_sentence(typed("run", "device=cuda"), "device=cuda: torch finds no such device")


def test_a_sweep_over_models_takes_settings_that_only_some_of_them_use(typed: Command) -> None:
    """Its jobs are checked, and then the server does not answer."""
    done = typed("run", "-m", "model=lenet,svm", "optimizer.lr=0.1", "tracking.uri=http://127.0.0.1:9")
    assert "does not answer" in done.stderr and "no effect" not in done.stderr


def test_the_plain_script_says_how_it_is_called(typed: Command) -> None:
    for words in ([], ["data"], ["data", "many"]):
        done = typed("plain", *words)
        assert done.returncode == 1 and done.stderr.startswith("usage: python scripts/plain.py FOLDER EPOCHS")


def test_a_reader_that_stops_reading_gets_no_traceback(start: Callable[..., Started]) -> None:
    """As in … | head."""
    run = start("experiment=smoke", "epochs=1000")
    assert run.stdout is not None and run.stderr is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(60) == 141
    assert run.stderr.read() == ""
