"""The settings of a run, validated. Imports neither torch nor MLflow: a sweep checks all its configs first."""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

from pydantic import Field, ValidationError

from lenetexp.config import fields as f
from lenetexp.config.command_line import GLOBAL, find_option_file
from lenetexp.config.messages import explain_validation
from lenetexp.config.targets import (
    CROSS_ENTROPY,
    LOSSES,
    ClassicalModel,
    Dataset,
    KnownDataset,
    KnownLoss,
    KnownOptimizer,
    KnownScheduler,
    Model,
    Optimizer,
    Scheduler,
    Settings,
    Target,
    check_arguments,
)
from lenetexp.errors import UserError, pluralize

S = TypeVar("S", bound=Settings)

# What only training in steps reads. Not epochs: a classifier beside nets in a comparison takes theirs, as one epoch.
OF_STEPS = ("batch_size", "clip_norm", "ema", "patience", "optimizer", "scheduler", "dataset.augment")

# Environment variables: torch reads the first two as its number of threads; the third says that a sweep's launcher set
# them to a job's share of the cores, so that they are no choice of the user's.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SHARED_THREADS = "LENETEXP_SHARED_THREADS"


class Device(Settings):
    """The device to compute on, and how to use it."""

    name: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: f.CountOrAuto | None = None  # as in older runs: torch decides
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    deterministic: bool = False


class Tracking(Settings):
    """Where runs are recorded."""

    uri: f.Address
    experiment: f.Text
    offline: bool = False
    model: bool = False


class Diagnostics(Settings):
    """How often to measure what happens inside the net."""

    every: Literal["epoch", "batch"] | None = None


class SweepJob(Settings):
    """A run's place in a sweep. The sweep sets it."""

    parent: f.Text  # MLflow id of the sweep's own run
    # Both are percent-encoded, so that they pass through any launcher's command line.
    cwd: f.Text  # the folder that the sweep was started in: relative paths are relative to it
    swept: f.Text  # JSON: the swept keys with this run's values as they were typed

    @property
    def values(self) -> dict[str, str]:
        return json.loads(unquote(self.swept))


class RunConfig(Settings):
    """The settings of one run."""

    # Plain settings come first: groups interpolate them, and the first mistake is the one reported.
    seed: f.Seed
    epochs: f.Count
    batch_size: f.Count
    clip_norm: f.AboveZero | None
    ema: f.Decay | None = None  # older runs have none, nor a loss
    patience: f.Count | None
    published: f.Share | None = None  # older runs have none
    data_dir: f.Text
    resume: f.Resume
    trust: list[f.Text]
    job: SweepJob | None = None
    overrides: list[str] = Field(default_factory=list)  # the overrides as they were typed; set by the command line
    model: Model
    loss: Annotated[Target, check_arguments(KnownLoss, *LOSSES)] = CROSS_ENTROPY
    optimizer: Annotated[Optimizer, check_arguments(KnownOptimizer, "torch.optim.", "lenetexp.")]
    scheduler: Annotated[Scheduler, check_arguments(KnownScheduler, "torch.optim.", "lenetexp.")]
    dataset: Annotated[Dataset, check_arguments(KnownDataset, "lenetexp.")]
    device: Device
    diagnostics: Diagnostics = Diagnostics()  # older runs have none
    tracking: Tracking

    @property
    def headline(self) -> str:
        # The settings of a run that is resumed by its id are its own, which are known once it is found.
        return "" if isinstance(self.resume, str) else self.summary

    @property
    def summary(self) -> str:
        """The net and how it is trained, in words."""
        dataset, augment = self.dataset, self.dataset.augment
        arguments, loss = ", ".join(format_arguments(self.model.build_call())), self.loss.build_call()
        head = f"{self.model.name}{arguments and f' ({arguments})'} on {dataset.build_call().get('name', dataset.name)}"
        if isinstance(self.model, ClassicalModel):
            return f"{head}, fitted at once"
        parts = [
            head,
            f"{pluralize(self.epochs, 'epoch')} at batch size {self.batch_size}",
            " ".join([self.optimizer.name, *format_arguments(self.optimizer.build_call())]),
            self.scheduler.name,
            *([] if loss == CROSS_ENTROPY.build_call() else [" ".join([self.loss.name, *format_arguments(loss)])]),
            f"seed {self.seed}",
            *format_arguments({"clip_norm": self.clip_norm, "ema": self.ema, "patience": self.patience}),
            *([] if augment is None else [" ".join(["augment", *format_arguments(augment.model_dump())])]),
        ]
        return ", ".join(parts)

    def require_effect(self, overrides: Iterable[str]) -> None:
        """Check that typed settings have an effect on the model.

        Args:
            overrides: The words of the command line, as `optimizer.lr=0.1`.

        Raises:
            UserError: A setting only affects training in steps, but the model is fitted in closed form.
        """
        if isinstance(self.model, ClassicalModel):
            for word in overrides:
                key = word.lstrip("+~").partition("=")[0]
                if f"{key}.".startswith(tuple(f"{setting}." for setting in OF_STEPS)):
                    name = self.model.name
                    raise UserError(f"{word}: has no effect on {name}, which is fitted at once; leave it out")


def format_arguments(arguments: Mapping[str, Any]) -> list[str]:
    """Format the arguments that have an effect as one would say them: `relu`, `nesterov`, `momentum=0.9`."""
    hidden = ("_target_", "eps", "fused")  # how the arithmetic is done
    shown_values = {key: value for key, value in arguments.items() if value and key not in hidden}
    return [
        value if key == "activation" else key if value is True else f"{key}={value:g}" if isinstance(value, float)
        else f"{key}={value}" for key, value in shown_values.items()
    ]  # fmt: skip


def check_config(kind: type[S], values: Mapping[str, Any], prefix: str = "") -> S:
    """Validate a composed config.

    Args:
        kind: The class of its settings.
        values: The config as plain values.
        prefix: What precedes a key in an error message.

    Raises:
        UserError: A setting is wrong. The message names the first one.
    """
    for group in {"local", "experiment", "sweep"} & values.keys():  # whose files set what belongs to other groups
        raise UserError(f"{find_option_file(group) or f'a file of {group}'}: must begin with the line {GLOBAL}")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{prefix}{explain_validation(error)}") from None
