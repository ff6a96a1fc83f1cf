"""A record may come from a stranger: nothing in it is executed, and nothing is taken for what it is not."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import InProcess, composed
from lenetexp import predict
from lenetexp.config.schema import RunConfig, Tracking, check_config
from lenetexp.datasets.splits import load_data
from lenetexp.errors import UserError
from lenetexp.runs.resume import ResumePlan
from lenetexp.runs.trust import read_config, require_trusted
from lenetexp.tracking.query import get_run
from lenetexp.tracking.store import open_store
from lenetexp.training.setup import set_up
from lenetexp.training.state import load_checkpoint, save_checkpoint

MINE = """
import pathlib
import subprocess
import torch
from lenetexp import datasets
from torchvision.datasets.utils import download_url

class Net(torch.nn.Module):
    pass

def images():
    pass
"""
NEVER = (
    "mine.torch.hub.load",
    "mine.torch.load",
    "mine.torch.optim.SGD",
    "mine.subprocess.run",
    "mine.pathlib.Path",
    "mine.download_url",
    "lenetexp.models.layers.torch.hub.load",
    "lenetexp.training.state.save_checkpoint",
    "os.system",
    "builtins.eval",
)
NEVER_IMAGES = (
    "mine.torch.nn.Linear",
    "mine.datasets.splits.load_data",
    "lenetexp.datasets.downloads._download",
    "lenetexp.datasets.downloads.FileLock",
    "lenetexp.datasets.pictures.read_image",
)


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that is trusted and imports others that are not."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("mine", None)


def require(key: str, settings: object, trust: tuple[str, ...] = ("mine",)) -> None:
    require_trusted(settings, key, trust)


@pytest.mark.parametrize(
    ("key", "target"),
    [*(("model", target) for target in NEVER), *(("dataset", target) for target in (*NEVER, *NEVER_IMAGES))],
)
def test_trust_in_a_module_is_not_trust_in_what_it_imports(key: str, target: str) -> None:
    """Nor in lenetexp's private functions."""
    with pytest.raises(UserError, match=rf"^{key}\._target_={target}: .*names what is not trusted"):
        require(key, {"_target_": target})


def test_what_may_be_named() -> None:
    for target in ("lenetexp.models.LeNet", "torch.nn.Linear", "torchvision.models.ResNet", "mine.Net"):
        require("model", {"_target_": target, "inner": [{"_target_": "torch.nn.ReLU"}]})
    for target in ("lenetexp.datasets.digits", "lenetexp.datasets.torchvision_dataset", "mine.images"):
        require("dataset", {"_target_": target})
    with pytest.raises(UserError, match=r"must be of lenetexp, torch, torchvision, or allowed: trust=\[mine\]"):
        require("model", {"_target_": "mine.Net"}, trust=())
    with pytest.raises(UserError, match="must not hold interpolations"):
        require("model", {"_target_": "torch.nn.Linear", "bias": "${oc.env:HOME}"})


@pytest.mark.parametrize(
    "text",
    ["a: !!omap [b: 1]", "a: !!set {b}", "a: !!binary aGk=", "a: 2001-01-01", "a: &b [*b]", "1: b", "[]", "a: [",
     f"a: {'[' * 3000}", "a: !!python/object/apply:os.system [true]"],
)  # fmt: skip
def test_a_stored_config_is_plain_settings(text: str) -> None:
    with pytest.raises(UserError, match=r"^run=4d1f: its config is damaged") as told:
        read_config(text, "run=4d1f")
    assert "\n" not in str(told.value) and len(str(told.value)) < 250


def test_predict_does_not_follow_a_strangers_config(here: InProcess) -> None:
    store = open_store(Tracking(uri=here.uri, experiment="strangers"))
    run_id = store.client.create_run(store.experiment_id).info.run_id
    config = {"model": {"_target_": "os.system"}, "dataset": {"_target_": "lenetexp.datasets.digits"}}
    facts = {"classes": ["0", "1"], "image_shape": [1, 28, 28]}
    for name, content in {"config.yaml": config, "dataset.json": facts, "checkpoints/best.pt": {}}.items():
        store.client.log_dict(run_id, content, name)
    with pytest.raises(UserError, match=r"model\._target_=os\.system: .*names what is not trusted"):
        predict.load_net(get_run(store, run_id), trust=["mine"])


def test_resume_does_not_follow_a_strangers_config(here: InProcess, tmp_path: Path) -> None:
    """resume=ID alone takes the stored config."""
    here.train("epochs=9", stop_after=1)
    (run,) = here.runs
    config = Path(run.data.tags["lenetexp.folder"]) / "config.yaml"
    trap, text = tmp_path / "trap", config.read_text()
    target, popen = "_target_: torch.optim.Adam", f"_target_: psutil.Popen, _args_: [[touch, {trap}]]"
    for hostile, said in (
        (f"_target_: pathlib.Path.touch\n  self: {trap}", "names what is not trusted"),
        (f"_target_: os.system\n  command: touch {trap}", "names what is not trusted"),
        (f"{target}\n  x: {{{popen}}}", "names what is not trusted"),
        (f"{target}\n  x: !!omap [a: {{{popen}}}]", "its config is damaged"),
    ):
        assert target in text
        config.write_text(text.replace(target, hostile))
        with pytest.raises(UserError, match=said):
            here.train(f"resume={run.info.run_id}", recipe=())
        assert not trap.exists()


def test_a_strangers_checkpoint_is_not_taken_for_what_it_is_not(here: InProcess) -> None:
    """torch itself takes these, and one of them would make a fused optimizer write where it must not."""
    here.train("epochs=3", stop_after=1)
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
    intact = last.read_bytes()
    settings = check_config(RunConfig, composed("experiment=smoke", "device=cpu", "epochs=3"))
    data = load_data(settings.dataset, torch.device("cpu"))
    stored = get_run(open_store(Tracking(uri=here.uri, experiment=here.experiment)), run.info.run_id)
    for change in changes:
        last.write_bytes(intact)
        state = load_checkpoint(last)
        change(state)
        save_checkpoint(last, state)
        with pytest.raises(UserError, match="is not of this net and recipe"):
            ResumePlan(stored, settings, {}).restore(set_up(settings, data, torch.device("cpu")), data.digest, last)
    last.write_bytes(intact)
    here.train("epochs=3", "resume=true")
    assert here.runs[0].info.status == "FINISHED"
