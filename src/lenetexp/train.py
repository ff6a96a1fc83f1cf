"""The training loop, written out. Knows nothing of Hydra or MLflow: yields one record an epoch."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from lenetexp.config import Augment
from lenetexp.data import Data, batches, seed_of
from lenetexp.evaluate import evaluate
from lenetexp.optim import Schedule

# Steps between two looks at whether the loss is still finite: each look waits for the device.
LOOK_EVERY = 64

Batches = Iterable[tuple[Tensor, Tensor]]


class Diverged(Exception):
    """The loss is no longer finite: a result of the settings, not a fault."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss stopped being finite in epoch {epoch}")
        self.epoch = epoch


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Losses are mean nats an example, accuracies shares in [0, 1]."""

    epoch: int  # from 1
    train_loss: float  # over the epoch, while the weights changed
    train_accuracy: float
    val_loss: float  # after the epoch
    val_accuracy: float
    lr: float  # of the epoch's first step
    images_per_second: float  # of training alone
    improved: bool  # whether these are the best weights so far


@dataclass
class Training:
    """All that changes while a net learns; its state is the whole state of a run."""

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    history: list[Epoch] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None  # on the CPU, as any module with these names takes them

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def best(self) -> Epoch | None:
        """The epoch of `best_weights`."""
        return next((record for record in reversed(self.history) if record.improved), None)

    @property
    def stale(self) -> int:
        """Epochs since the validation accuracy was better than ever before."""
        accuracies = [record.val_accuracy for record in self.history]
        return len(accuracies) - 1 - accuracies.index(max(accuracies)) if accuracies else 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and texts alone, so that it can be read back without trust."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": [vars(record) for record in self.history],
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave.

        Raises:
            Exception: of many kinds, where it is the state of something else.
        """
        self.model.load_state_dict(state["model"])
        # torch takes any state here and fails only later, in a step: a fused one by touching memory that is
        # not its own.
        groups = [{**group, "params": []} for group in state["optimizer"]["param_groups"]]
        _check_alike([{**group, "params": []} for group in self.optimizer.param_groups], groups)
        self.optimizer.load_state_dict(state["optimizer"])
        fused = any(group.get("fused") for group in self.optimizer.param_groups)
        for parameter, kept in self.optimizer.state.items() if fused else ():
            for tensor in kept.values():
                if isinstance(tensor, Tensor) and tensor.shape not in ((), parameter.shape):
                    raise ValueError(f"the optimizer's state has the shape {tuple(tensor.shape)}")
        _check_alike(self.schedule.scheduler.state_dict(), state["scheduler"])
        self.schedule.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = [_epoch(record, i) for i, record in enumerate(state["history"], start=1)]
        self.best_weights = state["best_weights"]


def fit(
    training: Training,
    data: Data,
    forward: Callable[[Tensor], Tensor],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    watch: Callable[[Batches, Tensor], Batches] = lambda batches, sums: batches,
) -> Iterator[Epoch]:
    """Trains until `epochs` epochs are done, or `patience` epochs brought nothing better.

    Args:
        training: what is trained, changed in place; goes on after `training.epoch`.
        data: the splits; weights are judged on `data.val`.
        forward: the model as it is called in training: itself, compiled, or under autocast.
        epochs: epochs in all, those done before included.
        batch_size: images an optimizer step.
        seed: decides the order of images and their augmentation in every epoch.
        augment: how far images are moved, turned and scaled, or None.
        clip_norm: largest norm of the whole gradient, or None.
        patience: epochs without a better validation accuracy before it stops, or None.
        watch: wraps the batches of an epoch; may look at the sums of nats and of right answers.

    Yields:
        one record after every epoch, with `training` in the state after that epoch.

    Raises:
        Diverged: the loss stopped being finite; `training.best` is from the epochs before.
    """
    model, optimizer, schedule, scaler = (
        training.model, training.optimizer, training.schedule, training.scaler,
    )  # fmt: skip
    for epoch in range(training.epoch + 1, epochs + 1):
        if patience is not None and training.stale >= patience:
            return
        started = time.perf_counter()
        lr = optimizer.param_groups[0]["lr"]
        torch.manual_seed(seed_of("layers", seed, epoch))  # dropout and the like, in a net that has it
        model.train()
        sums = torch.zeros(2, device=data.train.labels.device)  # nats, right answers
        nats, right = sums
        epoch_batches = batches(data.train, batch_size, seed, epoch, augment)
        for step, (images, labels) in enumerate(watch(epoch_batches, sums)):
            logits = forward(images)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()  # the scaler does nothing unless the precision is fp16
            if clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            scaler.step(optimizer)
            scaler.update()
            schedule.after_batch()
            nats.add_(loss.detach(), alpha=len(labels))
            right.add_((logits.argmax(1) == labels).sum())
            if step % LOOK_EVERY == 0 and not isfinite(nats.item()):
                raise Diverged(epoch)
        train_loss, train_accuracy = (sums / len(data.train)).tolist()
        seconds = time.perf_counter() - started
        val = evaluate(model, data.val)
        val_loss = val.loss
        if not isfinite(train_loss + val_loss):
            raise Diverged(epoch)
        schedule.after_epoch(val_loss)
        best = training.best
        improved = best is None or (val.accuracy, -val_loss) > (best.val_accuracy, -best.val_loss)
        if improved:
            training.best_weights = _plain(model)
        record = Epoch(
            epoch, train_loss, train_accuracy, val_loss, val.accuracy, lr,
            images_per_second=len(data.train) / seconds, improved=improved,
        )  # fmt: skip
        training.history.append(record)
        yield record


def _check_alike(now: Any, then: Any) -> None:
    """That plain values are of the same kinds in the same places; None may stand for any, or any for None.

    Raises:
        ValueError: they are not.
    """
    if now is None or then is None:
        return
    number = isinstance(now, (int, float)) and isinstance(then, (int, float))
    if not number and type(now) is not type(then):
        raise ValueError(f"a {type(then).__name__} stands where a {type(now).__name__} should")
    if isinstance(now, Mapping):
        if set(now) != set(then):
            raise ValueError(f"{', '.join(map(str, set(now) ^ set(then)))} should not, or should be there")
        for key, value in now.items():
            _check_alike(value, then[key])
    elif isinstance(now, (list, tuple)):
        for one, other in zip(now, then, strict=True):
            _check_alike(one, other)


def _epoch(record: Mapping[str, Any], number: int) -> Epoch:
    example = Epoch(number, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    _check_alike(vars(example), dict(record))
    if record["epoch"] != number:
        raise ValueError(f"epoch {record['epoch']} stands where {number} should")
    return Epoch(**record)


def _plain(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights alone, as any module with these names and shapes takes them."""
    plain = torch.contiguous_format
    return {k: v.to("cpu", copy=True, memory_format=plain) for k, v in model.state_dict().items()}
