"""The loop: what it computes is what a plain script computes, and every run can be had again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenetexp import checkpoint, data, device, evaluate, models, optim, train
from lenetexp.config import Augment, Device, UserError
from lenetexp.datasets import Split
from lenetexp.train import Batches, Diverged, Epoch, Training

CPU = torch.device("cpu")


def make_data(count: int = 150, seed: int = 0) -> data.Data:
    """Easy images: a bright row tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    images = torch.randint(0, 60, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), 0, labels * 2 + 4] = 250
    split = Split(images, labels)
    return data.Data("rows", split, split, split, tuple("0123456789"), False, "digest")


def make_training(lr: float = 0.05, seed: int = 0, **options: Any) -> Training:
    torch.manual_seed(seed)
    model = models.LeNet(activation="relu", **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    return Training(model, optimizer, optim.Schedule(scheduler, "epoch"), no_scaler())


def no_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


def fit(training: Training, images: data.Data, **options: Any) -> list[Epoch]:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "seed": 0, **options}
    return list(train.fit(training, images, training.model, **settings))


def test_losses_and_weights_equal_a_plain_loops() -> None:
    """An independent loop over the same batches: same means, short last batch weighed as it is."""
    images, training = make_data(), make_training()
    plain = models.LeNet(activation="relu")
    plain.load_state_dict(training.model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    expected = []
    for epoch in (1, 2, 3):
        nats, right = 0.0, 0
        for x, y in data.batches(images.train, 16, 0, epoch):
            logits = plain(x)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            nats += loss.item() * len(y)
            right += int((logits.argmax(1) == y).sum())
        scheduler.step()
        expected.append((nats / 150, right / 150))
    records = fit(training, images)
    for record, (loss_mean, accuracy) in zip(records, expected, strict=True):
        assert record.train_loss == pytest.approx(loss_mean, rel=1e-4)
        assert record.train_accuracy == pytest.approx(accuracy)
    for mine, theirs in zip(training.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert [record.lr for record in records] == pytest.approx([0.05, 0.05, 0.025])


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    augment = Augment(shift=2, rotate=10, scale=0.1)
    runs = [make_training(), make_training()]
    for training in runs:
        fit(training, make_data(), augment=augment)
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(a, b)
    other = make_training()
    fit(other, make_data(), augment=augment, seed=1)
    assert not torch.equal(other.model.c1.weight, runs[0].model.c1.weight)


def test_a_state_read_back_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = make_training()
    records = fit(whole, make_data(), epochs=4)
    first = make_training()
    fit(first, make_data(), epochs=2)
    checkpoint.save(tmp_path / "last.pt", first.state_dict())
    second = make_training(seed=5)
    second.load_state_dict(checkpoint.load(tmp_path / "last.pt"))
    rest = fit(second, make_data(), epochs=4)
    assert [(r.epoch, r.train_loss, r.val_loss, r.lr) for r in rest] == [
        (r.epoch, r.train_loss, r.val_loss, r.lr) for r in records[2:]
    ]
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_net_trains_in_training_mode_after_a_validation() -> None:
    modes: list[bool] = []

    class Spy(models.LeNet):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    training = make_training()
    training.model = Spy(activation="relu")
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.01)
    training.schedule.scheduler = torch.optim.lr_scheduler.ConstantLR(training.optimizer, 1.0)
    fit(training, make_data(32), epochs=2)
    assert modes == [True, True, False, True, True, False]


def test_best_is_the_highest_accuracy_and_for_equal_ones_the_lower_loss(monkeypatch: Any) -> None:
    # (accuracy, loss) after each epoch, and which of them are better than all before.
    scores = [(0.5, 1.0), (0.5, 0.9), (0.5, 0.95), (0.7, 2.0), (0.6, 0.1)]
    stream = iter(scores)

    class Scored:
        def __init__(self) -> None:
            self.accuracy, self.loss = next(stream)

    monkeypatch.setattr(train, "evaluate", lambda model, split: Scored())
    training = make_training()
    records = fit(training, make_data(32), epochs=5)
    assert [record.improved for record in records] == [True, True, False, True, False]
    assert training.best is not None and training.best.epoch == 4


def test_patience_stops_after_so_many_epochs_without_a_better_one(monkeypatch: Any) -> None:
    scores = iter([(0.1, 1.0), (0.3, 1.0), (0.2, 1.0), (0.3, 0.9), (0.3, 0.8), (0.3, 0.7)])

    class Scored:
        def __init__(self) -> None:
            self.accuracy, self.loss = next(scores)

    monkeypatch.setattr(train, "evaluate", lambda model, split: Scored())
    assert len(fit(make_training(), make_data(32), epochs=20, patience=2)) == 4, (
        "a lower loss alone is not waited for"
    )


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_best() -> None:
    training = make_training(lr=0.05)
    images = make_data()
    fit(training, images, epochs=1)
    best = training.best
    training.optimizer.param_groups[0]["lr"] = 1e12
    with pytest.raises(Diverged, match="epoch 2"):
        fit(training, images, epochs=9)
    assert training.best is best and training.epoch == 1


def test_divergence_is_seen_within_the_epoch() -> None:
    """Long before an epoch of 500 steps is over."""
    training = make_training(lr=1e12)
    steps = 0

    def count(batches: Batches, sums: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal steps
        for batch in batches:
            steps += 1
            yield batch

    with pytest.raises(Diverged):
        fit(training, make_data(1000), batch_size=2, watch=count)
    assert steps <= 2 * train.LOOK_EVERY


def test_clipping_bounds_the_step() -> None:
    free, clipped = make_training(), make_training()
    before = [p.detach().clone() for p in clipped.model.parameters()]
    for training, clip in ((free, None), (clipped, 1e-3)):
        training.optimizer = torch.optim.SGD(training.model.parameters(), lr=1.0)
        training.schedule.scheduler = torch.optim.lr_scheduler.ConstantLR(training.optimizer, 1.0)
        fit(training, make_data(16), epochs=1, clip_norm=clip)
    moved = [
        torch.cat([(p.detach() - b).flatten() for p, b in zip(t.model.parameters(), before, strict=True)])
        for t in (free, clipped)
    ]
    assert moved[1].norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert moved[0].norm() > 10 * moved[1].norm()


def test_evaluation_scores_every_example_once_in_any_batching(monkeypatch: Any) -> None:
    model, split = models.LeNet(), make_data(137).train
    whole = evaluate.evaluate(model, split)
    monkeypatch.setattr(evaluate, "BATCH", 10)
    parts = evaluate.evaluate(model, split)
    assert len(parts.labels) == 137
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    logits = model(data.as_floats(split.images))
    assert whole.loss == pytest.approx(F.cross_entropy(logits, split.labels).item(), rel=1e-5)
    assert whole.accuracy == pytest.approx((logits.argmax(1) == split.labels).double().mean().item())
    assert whole.confusion().sum() == 137
    assert whole.confusion().diagonal().sum() == round(whole.accuracy * 137)


@pytest.mark.parametrize("broken", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(broken)
    with pytest.raises(UserError, match=r"best\.pt"):
        checkpoint.load(path)


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (trap,))

    torch.save({"model": Hostile()}, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt"):
        checkpoint.load(tmp_path / "best.pt")
    assert not trap.exists()


def test_a_failed_save_leaves_the_former_checkpoint_whole(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"epoch": 1})

    def full_disk(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match=r"last\.pt cannot be written \(No space left on device\)"):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_dropout_in_a_users_net_is_a_function_of_seed_and_epoch() -> None:
    """What a net of one's own draws is drawn again after a resume."""

    def with_dropout() -> Training:
        training = make_training()
        training.model.head_activation = nn.Dropout(0.5)
        return training

    whole, resumed = with_dropout(), with_dropout()
    fit(whole, make_data(), epochs=2)
    fit(resumed, make_data(), epochs=1)
    torch.rand(17)  # other use of the global generator between the epochs
    fit(resumed, make_data(), epochs=2)
    assert torch.equal(whole.model.c1.weight, resumed.model.c1.weight)


def test_a_run_after_one_with_threads_of_its_own_has_torchs_number_again() -> None:
    for threads in (1, device.THREADS + 1):
        device.pick(Device(name="cpu", threads=threads))
        assert torch.get_num_threads() == threads
    device.pick(Device(name="cpu", threads=None))
    assert torch.get_num_threads() == device.THREADS
