"""The recipe of the record: held-out images choose, the test images are looked at once, and not before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers import in_process
from lenetexp.datasets import splits
from lenetexp.datasets.splits import Data, Split, load_data
from lenetexp.tracking.journal import Epoch, JournalReader

RECIPE = ("experiment=record", "dataset=digits", "epochs=3")


# What asks for no value of an image.
HARMLESS = {"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "__len__", "size", "dim"}


class Watched(Tensor):
    """Images; whatever is done with their values is noted, with how many epochs had been recorded by then."""

    looks: list[tuple[str, int]] = []  # noqa: RUF012  (one test, one list)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001,ANN206
        name = getattr(function, "__name__", "")
        if name == "__get__":
            name = function.__self__.__name__
        if name not in HARMLESS:
            events = JournalReader(Path("outputs/runs/0"))
            cls.looks.append((name, len([*events.select(Epoch)])))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def test_the_test_images_are_looked_at_once_and_after_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    """Scored once (split into batches); later, pictures of mistakes and filters show some of them."""

    def watched(*arguments: object) -> Data:
        data = load_data(*arguments)  # type: ignore[arg-type]
        return replace(data, test=Split(data.test.images.as_subclass(Watched), data.test.labels))

    monkeypatch.setattr(splits, "load_data", watched)
    splits._loaded.clear()
    in_process(tmp_path, monkeypatch, empty_store).train(recipe=RECIPE, pictures=True)
    splits._loaded.clear()
    assert Watched.looks[0] == ("split", 3)
    assert [name for name, _ in Watched.looks].count("split") == 1
    assert {epochs for _, epochs in Watched.looks} == {3}


def test_the_record_is_the_tutorials_net_and_nothing_is_added_when_it_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    in_process(tmp_path, monkeypatch, empty_store).train(recipe=RECIPE)
    weights = torch.load(tmp_path / "outputs/runs/0/checkpoints/best.pt", weights_only=True)
    assert sum(weight.numel() for weight in weights.values()) == 61_706
    assert [*weights] == [
        f"{layer}.{kind}" for layer in ("c1", "c3", "c5", "f6", "output") for kind in ("weight", "bias")
    ]
