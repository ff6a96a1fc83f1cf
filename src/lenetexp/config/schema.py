"""The settings of a run, checked. Imports neither torch nor MLflow: a sweep checks all its configs first."""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import unquote

from hydra.utils import instantiate
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lenetexp.config import fields as f
from lenetexp.config.messages import of_validation
from lenetexp.errors import UserError, counted, one_line

# The default of an argument that a class may not have. If it is given, it must not be null.
ABSENT: Any = None

T = TypeVar("T")


class Settings(BaseModel):
    """Settings that allow no unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @property
    def headline(self) -> str:
        """What a command with these settings is about to do; empty if there is nothing to say."""
        return ""


class Target(Settings):
    """A class or function by its dotted name, with its arguments: those declared here are checked, others passed on."""

    model_config = ConfigDict(extra="allow", serialize_by_alias=True)
    not_arguments: ClassVar[frozenset[str]] = frozenset()

    target: f.Text = Field(alias="_target_")

    @property
    def name(self) -> str:
        return self.target.rpartition(".")[2]

    def call(self) -> dict[str, Any]:
        """What `hydra.utils.instantiate` takes: `_target_` and the arguments that were given."""
        return self.model_dump(exclude_unset=True, exclude=set(self.not_arguments))

    def make(self, group: str, kind: type[T], *first: Any, **more: Any) -> T:
        """Calls what is named, with `first` and `more`; raises `UserError` if that fails or does not make a `kind`."""
        call = {**self.call(), **more}
        try:
            made = instantiate(call, *first, _convert_="all")
        except Exception as error:  # a class may raise anything about its arguments, which the user can change
            cause = error.__cause__ or error
            if isinstance(cause, UserError):
                raise cause from None
            given = ", ".join(f"{key}={value}" for key, value in call.items() if key != "_target_")
            raise UserError(f"{group}: {self.name}({given}): {one_line(cause)}") from error
        if not isinstance(made, kind):
            wanted = f"{kind.__module__.partition('.')[0]} {kind.__name__}"
            raise UserError(f"{group}._target_={self.target}: must make a {wanted}, not a {type(made).__name__}")
        return made


class LeNetModel(Target):
    """The settings of lenetexp's own LeNet."""

    activation: f.Activation = "sigmoid"
    pooling: Literal["avg", "max"] = "avg"
    head_activation: bool = False
    init: Literal["torch", "xavier"] = "torch"


class PaperModel(Target):
    """The settings of the nets as LeCun's papers have them, up to LeNet-4."""

    activation: f.Activation = "scaled_tanh"
    output: Literal["tanh", "softmax"] = "tanh"
    init: Literal["lecun", "torch", "xavier"] = "lecun"


class LeNet5Model(Target):
    """The settings of LeNet-5 as in the paper."""

    activation: f.Activation = "scaled_tanh"
    output: Literal["rbf", "softmax"] = "rbf"
    init: Literal["lecun", "torch", "xavier"] = "lecun"


MODELS: dict[str, type[Target]] = {
    "lenetexp.models.LeNet": LeNetModel,
    "lenetexp.models.LeNet1989": PaperModel,
    "lenetexp.models.LeNet1": PaperModel,
    "lenetexp.models.LeNet4": PaperModel,
    "lenetexp.models.LeNet5": LeNet5Model,
}


class Optimizer(Target):
    """What every optimizer has."""

    lr: f.AboveZero = ABSENT


class TorchOptimizer(Optimizer):
    """Arguments of torch's optimizers. torch itself accepts some values that make no sense."""

    momentum: f.BelowOne = ABSENT
    weight_decay: f.NotNegative = ABSENT
    betas: Annotated[list[f.BelowOne], Field(min_length=2, max_length=2)] = ABSENT
    alpha: f.BelowOne = ABSENT
    lr_decay: f.NotNegative = ABSENT
    nesterov: bool = ABSENT
    fused: bool = ABSENT


class Scheduler(Target):
    """When a scheduler is stepped."""

    not_arguments = frozenset({"interval"})

    interval: Literal["epoch", "batch"] = "epoch"


class KnownScheduler(Scheduler):
    """Arguments of torch's schedulers and lenetexp's own."""

    step_size: f.Count = ABSENT
    gamma: f.AboveZero = ABSENT
    milestones: list[f.Count] = ABSENT
    factor: f.AboveZero = ABSENT
    T_max: f.Count = ABSENT
    eta_min: f.NotNegative = ABSENT
    epochs: f.Count = ABSENT
    warmup: f.BelowOne = ABSENT
    final: f.Share = ABSENT
    max_lr: f.AboveZero = ABSENT
    pct_start: f.Share = ABSENT
    div_factor: f.AboveZero = ABSENT
    final_div_factor: f.AboveZero = ABSENT
    cycle_momentum: bool = ABSENT
    steps_per_epoch: f.CountOrAuto = ABSENT
    patience: f.FromZero = ABSENT
    threshold: f.NotNegative = ABSENT
    min_lr: f.NotNegative = ABSENT


class Augment(Settings):
    """The limits of the random affine map that each training image gets, drawn anew every epoch."""

    shift: f.NotNegative = 0.0  # pixels, in any direction
    rotate: f.Degrees = 0.0  # degrees, both ways
    scale: f.BelowOne = 0.0  # share of the size, up or down


class Dataset(Target):
    """How a dataset is split and augmented; the same settings for every dataset."""

    not_arguments = frozenset({"validation", "split_seed", "augment"})

    root: f.Text = ABSENT
    validation: f.HeldOutOrTest = 0.1
    split_seed: f.Seed = 0
    augment: Augment | None = None


class KnownDataset(Dataset):
    """Arguments of lenetexp's own datasets."""

    image_size: f.Count = ABSENT
    channels: Literal[1, 3] = ABSENT
    test: f.HeldOut = ABSENT


class Device(Settings):
    """What to compute on, and how."""

    name: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: f.Count | None = None
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
    """How often to look inside the net."""

    every: Literal["epoch", "batch"] | None = None


class SweepJob(Settings):
    """A run's place in a sweep, set by the sweep itself."""

    parent: f.Text  # MLflow id of the sweep's own run
    # Both are percent-encoded, so that they pass through any launcher's command line.
    cwd: f.Text  # the folder that the sweep was started in: relative paths are relative to it
    swept: f.Text  # JSON: the swept keys with this run's values as they were typed

    @property
    def values(self) -> dict[str, str]:
        return json.loads(unquote(self.swept))


def _checked(kind_of: Callable[[str], type[Target] | None]) -> BeforeValidator:
    """Has the settings of a `_target_` check its arguments; a custom class may use their names for other things."""

    def check_known(values: Any) -> Any:
        target = values.get("_target_") if isinstance(values, Mapping) else None
        kind = kind_of(target) if isinstance(target, str) else None
        return kind.model_validate(values) if kind else values

    return BeforeValidator(check_known)


def _arguments(known: type[Target], *packages: str) -> BeforeValidator:
    """Has `known` check the arguments of classes in `packages`."""
    return _checked(lambda target: known if target.startswith(packages) else None)


Model = Annotated[Target, _checked(MODELS.get)]


class RunConfig(Settings):
    """The settings of one run."""

    # Plain settings come first: groups interpolate them, and the first mistake is the one reported.
    seed: f.Seed
    epochs: f.Count
    batch_size: f.Count
    clip_norm: f.AboveZero | None
    patience: f.Count | None
    data_dir: f.Text
    resume: f.Resume
    trust: list[f.Text]
    job: SweepJob | None = None
    given: list[str] = []  # the overrides as they were typed; set by the command line
    model: Model
    optimizer: Annotated[Optimizer, _arguments(TorchOptimizer, "torch.optim.")]
    scheduler: Annotated[Scheduler, _arguments(KnownScheduler, "torch.optim.", "lenetexp.")]
    dataset: Annotated[Dataset, _arguments(KnownDataset, "lenetexp.")]
    device: Device
    diagnostics: Diagnostics = Diagnostics()  # older runs have none
    tracking: Tracking

    @property
    def headline(self) -> str:
        return f"Resumes run {self.resume}" if isinstance(self.resume, str) else self.summary

    @property
    def summary(self) -> str:
        """The net and how it is trained, as far as the settings alone tell."""
        dataset, augment = self.dataset, self.dataset.augment
        parts = [
            f"{self.model.name} ({', '.join(words(self.model.call()))}) on {dataset.call().get('name', dataset.name)}",
            f"{counted(self.epochs, 'epoch')} at batch size {self.batch_size}",
            " ".join([self.optimizer.name, *words(self.optimizer.call())]),
            self.scheduler.name,
            f"seed {self.seed}",
            *words({"clip_norm": self.clip_norm, "patience": self.patience}),
            *([] if augment is None else [" ".join(["augment", *words(augment.model_dump())])]),
        ]
        return ", ".join(parts)


def words(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments that do something, as one would say them: relu, nesterov, momentum=0.9."""
    unsaid = ("_target_", "eps", "fused")  # how the arithmetic is done
    said = {key: value for key, value in arguments.items() if value and key not in unsaid}
    return [
        value if key == "activation" else key if value is True else f"{key}={value:g}" if isinstance(value, float)
        else f"{key}={value}" for key, value in said.items()
    ]  # fmt: skip


S = TypeVar("S", bound=Settings)


def check(kind: type[S], values: Mapping[str, Any], prefix: str = "") -> S:
    """A composed config as `kind`; raises `UserError` that names the first wrong key, which `prefix` precedes."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{prefix}{of_validation(error)}") from None
