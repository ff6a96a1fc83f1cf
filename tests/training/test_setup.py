"""The device, net, optimizer and precision that the settings ask for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Command, InProcess, assert_same_weights, composed, make_data
from lenetexp.config.schema import Device, RunConfig, check_config
from lenetexp.errors import UserError
from lenetexp.training import setup
from lenetexp.training.loop import Recipe, fit
from lenetexp.training.setup import THREADS, pick_device, set_up
from lenetexp.training.state import Training
from sample_training import weights


def training_of(*overrides: str) -> Training:
    return set_up(check_config(RunConfig, composed(*overrides)), make_data(), torch.device("cpu"))


def test_the_seed_alone_decides_the_first_weights() -> None:
    one = training_of("seed=3")
    torch.rand(17)  # torch's own generator plays no part
    same, other = training_of("seed=3", "optimizer=adam", "epochs=9"), training_of("seed=4")
    assert_same_weights(weights(one), weights(same))
    assert not torch.equal(weights(one)["c1.weight"], weights(other)["c1.weight"])


def test_every_layer_learns() -> None:
    training = training_of()
    optimized = [id(p) for group in training.optimizer.param_groups for p in group["params"]]
    assert optimized == [id(p) for p in training.model.parameters()]


@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_lower_precision_is_for_training_alone_and_its_logits_are_fp32(precision: str, inside: torch.dtype) -> None:
    training = training_of(f"device.precision={precision}")
    seen: list[torch.dtype] = []

    def note(_: Any, __: Any, out: Tensor) -> None:
        seen.append(out.dtype)

    training.model.get_submodule("c3").register_forward_hook(note)
    images = torch.rand(2, 1, 28, 28)
    assert training.forward(images).dtype == torch.float32
    training.model(images)
    assert seen == [inside, torch.float32]


def test_a_run_after_one_that_set_its_threads_has_torchs_number_again() -> None:
    for threads in (1, THREADS + 1):
        pick_device(Device(name="cpu", threads=threads))
        assert torch.get_num_threads() == threads
    pick_device(Device(name="cpu", threads=None))
    assert torch.get_num_threads() == THREADS


@pytest.mark.parametrize(
    ("variable", "device", "takes_steps", "expected"),
    [
        (None, "cpu", True, 1),
        ("OMP_NUM_THREADS", "cpu", True, 5),  # the user's choice, which torch has taken
        ("MKL_NUM_THREADS", "cpu", True, 5),
        (None, "cpu", False, 5),
        (None, "cuda", True, 5),
    ],
)
def test_auto_is_one_thread_for_a_net_on_the_cpu_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, device: str, takes_steps: bool, expected: int
) -> None:
    monkeypatch.setattr(setup, "THREADS", 5)
    for name in (*setup.THREAD_VARIABLES, setup.SHARED_THREADS):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "5")
    assert setup.choose_threads(Device(threads="auto"), device, takes_steps) == expected
    monkeypatch.setenv(setup.SHARED_THREADS, "5")  # a sweep's launcher set the variable, to the job's share
    assert setup.choose_threads(Device(threads="auto"), "cpu", takes_steps) == (1 if takes_steps else 5)


def test_a_default_run_says_that_it_has_one_thread(
    here: InProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(setup, "THREADS", THREADS + 1)
    here.train()
    assert "CPU, 1 thread, fp32" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^device=cuda: torch finds no such device; must be auto or .*cpu$"):
        pick_device(Device(name="cuda"))


@pytest.mark.parametrize("words", [["ema=0.9"], ["optimizer=levenberg_marquardt"], ["optimizer=adamw"]], ids=" ".join)
def test_a_classifier_that_is_fitted_at_once_takes_any_settings(words: list[str]) -> None:
    data = make_data(40)
    training = set_up(check_config(RunConfig, composed("model=linear", *words)), data, torch.device("cpu"))
    (record,) = fit(training, data, Recipe(3, 16, 0, diagnostics=True))
    assert record.val_accuracy > 0.9 and training.best_weights


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss._target_=torch.nn.MSELoss", "~loss.label_smoothing"], "^loss: MSELoss must make one number of 2×10"),
        (["loss._target_=torch.nn.PReLU", "~loss.label_smoothing"], "^loss: PReLU has weights of its own"),
        (["optimizer=levenberg_marquardt", "clip_norm=1"], "^clip_norm=1: must be null with DiagonalLeven"),
        (["model=boosted_lenet_4", "optimizer=levenberg_marquardt"], "no rule for a loss of several nets"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_train_is_said_before_a_run_begins(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training_of(*words)


def test_a_batch_of_more_images_than_there_are_is_refused_before_a_run_begins(typed: Command, tmp_path: Path) -> None:
    done = typed("run", "batch_size=1296", "device=cpu")
    assert done.returncode
    assert done.stderr == "error: batch_size=1296: must be at most 1295, the number of training images\n"
    assert not (tmp_path / "outputs/mlflow.db").exists() and not list(tmp_path.glob("outputs/runs/*"))


def test_a_default_batch_may_be_more_than_there_are() -> None:
    settings = check_config(RunConfig, composed())
    training = set_up(settings, make_data(10), torch.device("cpu"))
    assert list(fit(training, make_data(10), Recipe(1, settings.batch_size, 0)))
