"""All that changes while a net learns: recorded epoch by epoch, saved and restored as weights only."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lenetexp.errors import UserError, format_error
from lenetexp.training.evaluate import Diverged, Scores, Totals
from lenetexp.training.frames import Frames, add_frame, pack_frames, unpack_frames
from lenetexp.training.schedules import Schedule


@dataclass(frozen=True)
class EpochRecord:
    """The results of one epoch. Losses are means over examples (cross-entropy in nats), accuracies in [0, 1]."""

    epoch: int  # from 1
    train_loss: float  # over the epoch, while the weights changed
    train_accuracy: float
    val_loss: float  # after the epoch
    val_accuracy: float
    lr: float  # of the epoch's last step
    images_per_second: float  # of training alone
    improved: bool  # whether these are the best weights so far
    inside: dict[str, float] = field(default_factory=dict)  # as `look_inside` returns it


@dataclass
class Training:
    """All that changes while a net learns. Its `state_dict` is the whole state of a run."""

    model: nn.Module
    loss: nn.Module  # N×classes outputs and N labels to a mean over the examples
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    # The model as training calls it: itself, compiled, or under autocast.
    forward: Callable[[Tensor], Tensor]
    average: AveragedModel | None = None  # the running mean of the weights
    history: list[EpochRecord] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None  # on the CPU, as any module with these names takes them
    frames: Frames = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.frames = add_frame({}, 0, self.model)

    @property
    def evaluated_model(self) -> nn.Module:
        """The net that is validated, saved and tested: the model, or the running mean of its weights."""
        return self.model if self.average is None else self.average.module

    def update_mean(self) -> None:
        """Advance the schedule and the running mean. Call this after every step of the optimizer."""
        self.schedule.step_batch()
        if self.average is not None:
            self.average.update_parameters(self.model)

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    @property
    def best(self) -> EpochRecord | None:
        return next((record for record in reversed(self.history) if record.improved), None)

    @property
    def epochs_without_improvement(self) -> int:
        return self.epochs_done - self.best.epoch if self.best else 0

    def record(
        self, epoch: int, train: Totals, val: Scores, images_per_second: float, inside: dict[str, float]
    ) -> EpochRecord:
        """Add an epoch, and keep its weights if they are the best.

        Raises:
            Diverged: A loss is not finite.
        """
        train_loss, train_accuracy = train.compute_means()
        if not isfinite(train_loss + val.loss):
            raise Diverged(epoch)
        best = self.best
        # The one definition of best: the highest validation accuracy; of equal accuracies, the lower loss.
        improved = best is None or (val.accuracy, -val.loss) > (best.val_accuracy, -best.val_loss)
        if improved:
            self.best_weights = {
                name: weight.to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, weight in self.evaluated_model.state_dict().items()
            }
        record = EpochRecord(
            epoch, train_loss, train_accuracy, val.loss, val.accuracy,
            self.schedule.lr, images_per_second, improved, inside,
        )  # fmt: skip
        self.history.append(record)
        self.frames = add_frame(self.frames, epoch, self.model)
        return record

    @property
    def _parts(self) -> dict[str, Any]:
        scheduler = self.schedule.scheduler
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": scheduler, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers and strings only, so that they can be read back without trust."""
        return {
            **{name: part.state_dict() for name, part in self._parts.items()},
            "history": [asdict(record) for record in self.history],
            "best_weights": self.best_weights,
            "frames": pack_frames(self.frames),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. The state of something else raises exceptions of many kinds."""
        history = TypeAdapter(list[EpochRecord]).validate_python(state["history"])
        if [record.epoch for record in history] != list(range(1, len(history) + 1)):
            raise ValueError("its epochs are not numbered from 1 on")
        frames = unpack_frames(state["frames"]) if "frames" in state else self.frames  # earlier versions kept none
        if not {frame.shape for frame in frames.values()} <= {frame.shape for frame in self.frames.values()}:
            raise ValueError("its frames are of another layer")
        if not frames.keys() <= {*range(len(history) + 1)}:
            raise ValueError("its frames are of other epochs")
        if state["best_weights"] is not None:
            self.model.load_state_dict(state["best_weights"])  # to see that they fit
        # torch accepts any state of an optimizer or a scheduler and fails only later, in a step.
        _require_alike(self.optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"])
        _require_alike(self.schedule.scheduler.state_dict(), state["scheduler"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        if any(group.get("fused") for group in self.optimizer.param_groups):  # would touch memory not its own
            for parameter, values in self.optimizer.state.items():
                shapes = {tuple(tensor.shape) for tensor in values.values() if isinstance(tensor, Tensor)}
                if not shapes <= {(), tuple(parameter.shape)}:
                    raise ValueError(f"the optimizer's state has the shapes {shapes}")
        self.history, self.best_weights, self.frames = history, state["best_weights"], frames


def _require_alike(ours: Any, theirs: Any) -> None:
    """Check that two nested states have the same keys and types everywhere. None matches anything.

    Raises:
        ValueError: They differ.
    """
    if ours is None or theirs is None:
        return
    numbers = isinstance(ours, (int, float)) and isinstance(theirs, (int, float))
    if not numbers and type(ours) is not type(theirs):
        raise ValueError(f"found a {type(theirs).__name__} in place of a {type(ours).__name__}")
    if isinstance(ours, Mapping):
        if set(ours) != set(theirs):
            raise ValueError(f"missing or unknown: {', '.join(map(str, set(ours) ^ set(theirs)))}")
        for key, value in ours.items():
            _require_alike(value, theirs[key])
    elif isinstance(ours, (list, tuple)):
        for one, other in zip(ours, theirs, strict=True):
            _require_alike(one, other)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` is at any moment the whole old file or the whole new one.

    Raises:
        UserError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = BytesIO()
        torch.save(content, buffer)  # straight to a full disk, torch would hide the reason
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        with suppress(OSError):  # Windows cannot flush a folder, which holds the new name
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        reason = error.strerror
        raise UserError(f"{path} cannot be written ({reason}); the checkpoint before it is intact") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors, numbers and strings. Never run anything that it holds.

    Raises:
        UserError: The file is missing, damaged or holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # a damaged pickle raises whatever its next byte leads to
        raise UserError(
            f"{path} is damaged or not a checkpoint of weights only ({format_error(error)[:120]})"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a dictionary, not a {type(content).__name__}")
    return content
