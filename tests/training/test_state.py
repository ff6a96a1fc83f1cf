"""The state of a training: a run continues from it as if it had never stopped; its file is whole, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import assert_same_weights, make_data
from lenetexp.errors import UserError
from lenetexp.training.state import load_checkpoint, save_checkpoint
from sample_training import make_training, train, weights


def test_a_restored_state_continues_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole, first, second = make_training(), make_training(), make_training(seed=5)
    records = train(whole, make_data(), epochs=4)
    train(first, make_data(), epochs=2)
    save_checkpoint(tmp_path / "last.pt", first.state_dict())
    second.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    train(second, make_data(), epochs=4)
    values = [[(r.epoch, r.train_loss, r.val_loss, r.lr, r.improved) for r in t.history] for t in (whole, second)]
    assert values[0] == values[1] and whole.history == records
    assert_same_weights(weights(whole), weights(second))
    assert_same_weights(whole.best_weights or {}, second.best_weights or {})
    assert list(second.frames) == [0, 1, 2, 3, 4]
    assert all(torch.equal(frame, second.frames[epoch]) for epoch, frame in whole.frames.items())


def test_the_state_of_an_earlier_version_has_no_frames_and_those_of_another_net_are_refused() -> None:
    before, after = make_training(), make_training()
    train(before, make_data(), epochs=2)
    state = {key: value for key, value in before.state_dict().items() if key != "frames"}
    after.load_state_dict(state)
    train(after, make_data(), epochs=3)
    assert list(after.frames) == [0, 3]
    with pytest.raises(ValueError, match="frames are of another layer"):
        after.load_state_dict({**state, "frames": {"epochs": [0], "rows": torch.zeros(1, 6, 27)}})
    with pytest.raises(ValueError, match="frames are of other epochs"):
        after.load_state_dict({**state, "frames": {"epochs": [3], "rows": torch.zeros(1, 6, 26)}})


def test_what_is_not_a_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    """tests/test_fuzz.py damages them in more ways."""
    path = tmp_path / "best.pt"
    with pytest.raises(UserError, match=r"best\.pt: there is no such checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UserError, match=r"best\.pt is damaged"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(UserError, match=r"best\.pt must hold a dictionary, not a list"):
        load_checkpoint(path)


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (trap,))

    torch.save({"model": Hostile()}, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt"):
        load_checkpoint(tmp_path / "best.pt")
    assert not trap.exists()


def test_a_failed_save_leaves_the_checkpoint_before_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})

    def full_disk(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match=r"last\.pt cannot be written \(No space left on device\)"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
