"""Whatever is typed or lies in a file: it works, or is one sentence; nothing of it is executed."""

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

from helpers import PROJECT, InProcess
from lenetexp.datasets import torchvision_dataset
from lenetexp.datasets.pictures import read_image
from lenetexp.errors import UserError
from lenetexp.runs import experiment
from lenetexp.tracking import process
from lenetexp.tracking.journal import Epoch, Journal, JournalReader, Start
from lenetexp.tracking.recorder import Recorder
from lenetexp.training import loop
from lenetexp.training.state import load_checkpoint, save_checkpoint
from sample_images import MNIST_FILES, small_mnist, write_idx

FEW = settings(
    deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

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
).filter(lambda word: not word.startswith("-"))  # flags are Hydra's

Main = Callable[..., tuple[str, str]]


@pytest.fixture
def main(here: InProcess, monkeypatch: pytest.MonkeyPatch) -> Main:
    """scripts/run.py within this process, trainings of one step; how it ended, and the output."""
    batches, fit = loop.iterate_batches, loop.fit
    monkeypatch.setattr(loop, "iterate_batches", lambda *a, **k: islice(batches(*a, **k), 1))
    monkeypatch.setattr(experiment, "fit", lambda *a, **k: islice(fit(*a, **k), 1))
    monkeypatch.setattr(experiment, "try_draw", lambda _: True)
    monkeypatch.setattr(experiment, "save_model", lambda *_: None)
    monkeypatch.setattr(Recorder, "log_model", lambda *_: None)
    monkeypatch.setattr(process, "start", lambda _: None)

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


# A part with every commit, more where there is time.
@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_any_overrides_train_or_end_in_one_sentence(count: int, main: Main) -> None:
    endings = {"trained": 0, "refused": 0}

    @settings(FEW, max_examples=count)
    @given(st.lists(OVERRIDES, min_size=1, max_size=3))
    @example(["optimizer.lr=0.5"])
    def try_them(words: list[str]) -> None:
        ending, output = main("device=cpu", *words)
        assert "Traceback" not in output
        if ending != "trained":
            assert ending.startswith("error: ") and "\n" not in ending, ending
        endings["trained" if ending == "trained" else "refused"] += 1

    try_them()
    assert endings["trained"] and endings["refused"], "both are tried"


# ---- what lies in files ----


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """A file cut short, with bytes changed, with a part doubled or left out, or of nothing but noise."""
    place = st.integers(0, len(content))
    change = st.tuples(place, st.binary(min_size=1, max_size=8))
    return st.one_of(
        place.map(lambda end: content[:end]),
        st.lists(change, min_size=1, max_size=4).map(lambda changes: changed(content, changes)),
        st.tuples(place, place, place).map(lambda p: content[: p[0]] + content[p[1] : p[2]] + content[p[0] :]),
        st.tuples(place, place).map(lambda at: content[: min(at)] + content[max(at) :]),
        st.binary(max_size=200),
    )


def changed(content: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for place, put in changes:
        content = content[:place] + put + content[place + len(put) :]
    return content


def a_checkpoint(folder: Path) -> Path:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    path = folder / "last.pt"
    save_checkpoint(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3})
    return path


def a_picture(folder: Path, name: str = "a.png") -> Path:
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(folder / name)
    return folder / name


def a_photo(folder: Path) -> Path:
    return a_picture(folder, "a.jpg")


def a_journal(folder: Path) -> Path:
    journal = Journal(folder)
    journal.add(Start(run_id="a", tags={"é": "1"}, epochs=1))
    journal.add(Epoch.model_validate({"epoch": 1, "val/loss": float("nan")}))
    journal.close()
    return journal.path


def mnist(folder: Path) -> Path:
    write_idx(folder / "MNIST/raw", small_mnist())
    return folder / "MNIST/raw" / MNIST_FILES[0]


@pytest.mark.parametrize("count", [60, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("make", "read"),
    [
        (a_checkpoint, load_checkpoint),
        (a_picture, lambda path: read_image(path, "L")),
        (a_photo, lambda path: read_image(path, "L")),
        (a_journal, lambda path: JournalReader(path.parent)),
        (mnist, lambda path: torchvision_dataset("MNIST", str(path.parents[2]))),
    ],
    ids=["checkpoint", "picture", "photo", "journal", "mnist"],
)
def test_a_damaged_file_is_read_or_is_one_sentence(
    count: int, make: Callable[[Path], Path], read: Callable[[Path], object], tmp_path: Path
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
