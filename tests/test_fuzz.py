"""Whatever is typed or lies in a file: it works, or ends in one sentence; nothing of it is executed."""

import contextlib
import io
import runpy
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import PROJECT
from lenetexp import checkpoint, experiment, journal, tracking, train
from lenetexp.config import UserError
from lenetexp.datasets import read_image, torchvision_dataset
from test_datasets import MNIST_FILES, idx, small_set

FEW = settings(
    deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
# A part with every commit, all of it where CI has the time.
how_many = pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])

# ---- what is typed ----

KEYS = """
    seed epochs batch_size clip_norm patience resume trust data_dir job given
    model model._target_ model.activation model.pooling model.head_activation model.x
    optimizer optimizer._target_ optimizer.lr optimizer.momentum optimizer.nesterov optimizer.weight_decay
    scheduler scheduler._target_ scheduler.interval scheduler.warmup scheduler.epochs scheduler.x
    dataset dataset.validation dataset.split_seed dataset.augment dataset.augment.shift dataset.root
    device device.name device.threads device.precision device.deterministic
    tracking tracking.uri tracking.experiment tracking.offline experiment sweep local
"""
NUMBERS = st.one_of(
    st.integers(-3, 40), st.integers(), st.floats(), st.sampled_from([2**63, 10**400, 1e308, 5e-324, -0.0])
).map(str)
WORDS = r"""
    null true false inf nan auto test cpu cuda sgd adam lenet digits cosine onecycle relu tanh avg 0 1 0.5
    {} [] [1,2] {a:{b:{c:{}}}} {{{ ]] ${seed} ${nothing} ${oc.env:HOME} ${hydra:job.num} a=b 'a "b" ??? \
    torch.nn.Identity torch.optim.SGD os.getcwd lenetexp.models.LeNet lenetexp.nothing . .. / file:x ://
    sqlite:///x.db é ☃ %s \x00 {shift:1} {shift:-1} {shift:{}} [sgd] tag(log,1) range(3)
"""
VALUES = st.one_of(NUMBERS, st.sampled_from(WORDS.split()), st.text(max_size=12))
SIGNS = st.sampled_from(["", "", "", "+", "++", "~"])
OVERRIDES = st.one_of(
    st.tuples(SIGNS, st.sampled_from(KEYS.split()), st.just("="), VALUES).map("".join),
    st.tuples(st.text(max_size=8), VALUES).map("=".join),
    st.text(max_size=20),
)


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """scripts/run.py within this process, trainings of one step; how it ended, and the output."""
    batches, fit = train.batches, train.fit
    monkeypatch.setattr(train, "batches", lambda *a, **k: islice(batches(*a, **k), 1))
    monkeypatch.setattr(experiment, "fit", lambda *a, **k: islice(fit(*a, **k), 1))
    monkeypatch.setattr(experiment, "_draw", lambda *_: None)
    monkeypatch.setattr(tracking, "save_model", lambda *_: None)
    monkeypatch.setattr(tracking.Recorder, "model", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def call(*words: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *words])
        GlobalHydra.instance().clear()
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                runpy.run_path(str(PROJECT / "scripts/run.py"), run_name="__main__")
        except SystemExit as end:
            return str(end.code), out.getvalue()
        return "trained", out.getvalue()

    return call


def is_a_flag(word: str) -> bool:
    return word.startswith("-")


@how_many
def test_any_overrides_train_or_end_in_one_sentence(
    count: int, main: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endings: dict[str, int] = {"trained": 0, "told": 0}

    @settings(FEW, max_examples=count)
    @given(st.lists(OVERRIDES.filter(lambda word: not is_a_flag(word)), min_size=1, max_size=3))
    @example(["optimizer.lr=0.5"])
    def try_them(words: list[str]) -> None:
        ending, output = main("device=cpu", *words)
        assert "Traceback" not in output
        if ending != "trained":
            assert ending.startswith("error: ") and "\n" not in ending, ending
        print(ending[:150], words)
        endings["trained" if ending == "trained" else "told"] += 1

    try_them()
    assert endings["trained"] and endings["told"], "both ways are tried"


# ---- what lies in files ----


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """A file cut short, with bytes changed, with a part doubled or left out, or of nothing but noise."""
    place = st.integers(0, len(content))
    change = st.tuples(place, st.binary(min_size=1, max_size=8))
    return st.one_of(
        place.map(lambda end: content[:end]),
        st.lists(change, min_size=1, max_size=4).map(lambda changes: changed(content, changes)),
        st.tuples(place, place, place).map(
            lambda p: content[: p[0]] + content[p[1] : p[2]] + content[p[0] :]
        ),
        st.tuples(place, place).map(lambda at: content[: min(at)] + content[max(at) :]),
        st.binary(max_size=200),
    )


def changed(content: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for place, put in changes:
        content = content[:place] + put + content[place + len(put) :]
    return content


def read_checkpoint(path: Path) -> None:
    checkpoint.load(path)


def read_picture(path: Path) -> None:
    read_image(path, "L")


def read_journal(path: Path) -> None:
    journal.read(path)


def read_mnist(path: Path) -> None:
    torchvision_dataset("MNIST", str(path.parents[2]))


def a_checkpoint(folder: Path) -> Path:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    path = folder / "last.pt"
    checkpoint.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3})
    return path


def a_picture(folder: Path) -> Path:
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(folder / "a.png")
    return folder / "a.png"


def a_photo(folder: Path) -> Path:
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(folder / "a.jpg")
    return folder / "a.jpg"


def a_journal(folder: Path) -> Path:
    book = journal.Journal(folder)
    book.write("start", run_id="a", tags={"é": "1"}, epochs=1)
    book.write("epoch", epoch=1, **{"val/loss": float("nan")})
    book.close()
    return book.path


def mnist(folder: Path) -> Path:
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    for name, array in zip(MNIST_FILES, small_set().values(), strict=True):
        (raw / name).write_bytes(idx(array))
    return raw / MNIST_FILES[0]


@pytest.mark.parametrize("count", [60, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("make", "read"),
    [
        (a_checkpoint, read_checkpoint),
        (a_picture, read_picture),
        (a_photo, read_picture),
        (a_journal, read_journal),
        (mnist, read_mnist),
    ],
    ids=lambda function: function.__name__,
)
def test_a_damaged_file_is_read_or_told_in_one_sentence(
    count: int, make: Callable[[Path], Path], read: Callable[[Path], None], tmp_path: Path
) -> None:
    path = make(tmp_path)
    read(path)  # whole

    @settings(FEW, max_examples=count)
    @given(damaged(path.read_bytes()))
    def try_it(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)

    try_it()
