"""What a net learns on, and all that changes while it learns: set up, recorded by epoch, saved and restored."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import ceil, isfinite
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim import Optimizer

from lenetexp.config.schema import Device, RunConfig
from lenetexp.datasets.load import Data
from lenetexp.errors import UserError
from lenetexp.models.build import build
from lenetexp.optim import Schedule, build_optimizer, build_schedule
from lenetexp.training.batches import seed_of
from lenetexp.training.evaluate import Diverged, Scores, Totals

THREADS = torch.get_num_threads()  # torch's own choice, or that of OMP_NUM_THREADS


@dataclass(frozen=True)
class EpochRecord:
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
    """All that changes while a net learns; `state_dict` is the whole state of a run.

    The best weights are those of the highest validation accuracy; of equal accuracies, the lower loss.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    # The model as training calls it: itself, compiled, or under autocast.
    forward: Callable[[Tensor], Tensor]
    history: list[EpochRecord] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None  # on the CPU, as any module with these names takes them

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    @property
    def best(self) -> EpochRecord | None:
        return next((record for record in reversed(self.history) if record.improved), None)

    @property
    def epochs_without_improvement(self) -> int:
        return self.epochs_done - self.best.epoch if self.best else 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def record(self, epoch: int, train: Totals, val: Scores, lr: float, images_per_second: float) -> EpochRecord:
        """Adds an epoch, and keeps its weights if they are the best; raises `Diverged` if a loss is not finite."""
        train_loss, train_accuracy = train.means()
        if not isfinite(train_loss + val.loss):
            raise Diverged(epoch)
        best = self.best
        improved = best is None or (val.accuracy, -val.loss) > (best.val_accuracy, -best.val_loss)
        if improved:
            self.best_weights = {
                name: weight.to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, weight in self.model.state_dict().items()
            }
        record = EpochRecord(epoch, train_loss, train_accuracy, val.loss, val.accuracy, lr, images_per_second, improved)
        self.history.append(record)
        return record

    @property
    def _parts(self) -> dict[str, Any]:
        scheduler = self.schedule.scheduler
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": scheduler, "scaler": self.scaler}

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it can be read back without trust."""
        return {
            **{name: part.state_dict() for name, part in self._parts.items()},
            "history": [asdict(record) for record in self.history],
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; the state of something else raises exceptions of many kinds."""
        history = TypeAdapter(list[EpochRecord]).validate_python(state["history"])
        if [record.epoch for record in history] != list(range(1, len(history) + 1)):
            raise ValueError("its epochs are not numbered from 1 on")
        if state["best_weights"] is not None:
            self.model.load_state_dict(state["best_weights"])  # to see that they fit
        # torch accepts any state of an optimizer or a scheduler and fails only later, in a step.
        _require_alike(self.optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"])
        _require_alike(self.schedule.scheduler.state_dict(), state["scheduler"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        if any(group.get("fused") for group in self.optimizer.param_groups):  # would touch memory not its own
            for parameter, kept in self.optimizer.state.items():
                shapes = {tuple(tensor.shape) for tensor in kept.values() if isinstance(tensor, Tensor)}
                if not shapes <= {(), tuple(parameter.shape)}:
                    raise ValueError(f"the optimizer's state has the shapes {shapes}")
        self.history, self.best_weights = history, state["best_weights"]


def pick_device(settings: Device) -> torch.device:
    """The device that `settings` name, with torch's threads and determinism set; `UserError` if there is none."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, exists in found.items() if exists]
    name = usable[0] if settings.name == "auto" else settings.name
    if name not in usable:
        raise UserError(f"device={name}: torch finds no such device; must be auto or {', '.join(usable)}")
    torch.set_num_threads(settings.threads or THREADS)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, so that a number means the same everywhere
    if settings.deterministic:
        # Must be set before CUDA starts; the value is from torch's notes on reproducibility.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(settings.deterministic)  # imports the compiler: 1.4 s
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if settings.compile and name == "cpu" and not any(shutil.which(c) for c in compilers if c):
        raise UserError("device.compile=true: must be false without a C++ compiler (g++)")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device in words, for the start of a run and its record."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def set_up(settings: RunConfig, data: Data, device: torch.device) -> Training:
    """What learns, before the first step; the seed alone decides the weights. `UserError` if it cannot work."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("weights", settings.seed, 0))
        model = build(settings.model, len(data.classes), data.image_shape)
    # Channels last is the order in which oneDNN and cuDNN compute: no reordering at every layer.
    model.to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(settings.optimizer, model.parameters())
    steps_per_epoch = ceil(len(data.train) / settings.batch_size)
    return Training(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(settings.scheduler, optimizer, steps_per_epoch, settings.epochs),
        # Gradients in fp16 would vanish without a scale; other precisions need none.
        scaler=torch.amp.GradScaler(device.type, enabled=settings.device.precision == "fp16"),
        forward=_forward(model, settings, device),
    )


def _forward(model: nn.Module, settings: RunConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model as training calls it: itself, compiled, or under autocast; returns fp32 logits."""
    forward: Callable[[Tensor], Tensor] = torch.compile(model) if settings.device.compile else model
    if settings.device.precision == "fp32":
        return forward
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[settings.device.precision]
    return torch.autocast(device.type, dtype)(lambda images: forward(images).float())


def _require_alike(ours: Any, theirs: Any) -> None:
    """Raises ValueError unless both have the same keys and types everywhere; None matches anything."""
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
