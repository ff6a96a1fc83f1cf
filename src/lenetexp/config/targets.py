"""What a config names by `_target_`: a class or function, its arguments, and the call."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from hydra.utils import get_object, instantiate
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from lenetexp.config import fields as f
from lenetexp.config.command_line import find_setting_file, parse_typed_settings
from lenetexp.config.custom import explain_failure
from lenetexp.config.identity import FORMER_TARGETS
from lenetexp.errors import UserError, format_error, suggest_word

# The default of an argument that a class may not have. If it is given, it must not be null.
ABSENT: Any = None

T = TypeVar("T")


class Settings(BaseModel):
    """Settings that allow no unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @property
    def headline(self) -> str:
        """One line that announces what a command with these settings does; "" for none."""
        return ""


class Target(Settings):
    """A class or function by its dotted name, with its arguments. The ones declared here are checked."""

    model_config = ConfigDict(extra="allow", serialize_by_alias=True)
    not_arguments: ClassVar[frozenset[str]] = frozenset()

    target: Annotated[f.Text, AfterValidator(lambda name: FORMER_TARGETS.get(name, name))] = Field(alias="_target_")

    @property
    def name(self) -> str:
        return self.target.rpartition(".")[2]

    def build_call(self) -> dict[str, Any]:
        """Return `_target_` and the arguments that were set, as `hydra.utils.instantiate` takes them."""
        return self.model_dump(exclude_unset=True, exclude=set(self.not_arguments))

    def instantiate(self, group: str, kind: type[T], *first: Any, **more: Any) -> T:
        """Call the class or function.

        Args:
            group: The config group, for error messages.
            kind: The type that the result must have.
            *first: Positional arguments that come first.
            **more: Further keyword arguments.

        Raises:
            UserError: The call fails, or its result has another type.
        """
        call = {**self.build_call(), **more}
        try:
            instance = instantiate(call, *first, _convert_="all")
        except Exception as error:  # a class may raise anything about its arguments, which the user can change
            cause = error.__cause__ or error
            if isinstance(cause, UserError):
                raise cause from None
            if unknown := self._find_refused_arguments(cause):
                raise UserError(self._advise(group, unknown)) from error
            if reason := explain_failure(error, self.target):
                raise UserError(f"{group}: {self.name} failed: {reason}") from error
            arguments = ", ".join(f"{key}={value}" for key, value in call.items() if key != "_target_")
            raise UserError(f"{group}: {self.name}({arguments}): {format_error(cause)}") from error
        if not isinstance(instance, kind):
            expected = f"{kind.__module__.partition('.')[0]} {kind.__name__}"
            raise UserError(f"{group}._target_={self.target}: must make a {expected}, not a {type(instance).__name__}")
        return instance

    def _find_refused_arguments(self, error: BaseException) -> list[str]:
        """List the arguments that the callable does not accept, if that is what the error is about.

        An experiment file may set arguments of another class.
        """
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not isinstance(error, TypeError) or not unexpected or unexpected[1] not in self.build_call():
            return []
        if (parameters := self._list_parameters()) is None:  # it hands them on
            return [unexpected[1]]
        return [key for key in self.build_call() if key not in ("_target_", *parameters)]

    def _list_parameters(self) -> list[str] | None:
        """List the parameters of the callable. Return None if it accepts any keyword."""
        parameters = inspect.signature(get_object(self.target)).parameters
        takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        return None if takes_any else [*parameters]

    def _advise(self, group: str, unknown: list[str]) -> str:
        """Write the sentence for arguments that do not exist.

        If one was typed, it is a mistake. If a file sets it, it may be meant for another class, and `~` takes it out.
        `~` only works on keys of the config, not on a key that was typed with `+`.
        """
        for key in unknown:
            if f"{group}.{key}" in parse_typed_settings():
                takes = sorted(
                    {*(self._list_parameters() or ())} - {"self", "params", "optimizer", "classes", "channels"}
                )
                there_are = f"; it has {', '.join(takes)}" if takes else ""
                value = f"{group}.{key}={self.build_call()[key]}"
                return f"{value}: {self.name} has no such argument{there_are}{suggest_word(key, takes)}"
        without = " ".join(f"~{group}.{key}" for key in unknown)
        file = find_setting_file(f"{group}.{unknown[0]}")
        where = f" (in {file})" if file else ""
        return f"{group}: {self.name} does not take {', '.join(unknown)}{where}; add {without} to the command"


class LeNetModel(Target):
    """Arguments of `LeNet`."""

    activation: f.Activation = "sigmoid"
    pooling: Literal["avg", "max"] = "avg"
    head_activation: bool = False
    init: Literal["torch", "xavier"] = "torch"


class PaperModel(Target):
    """Arguments of the nets from LeCun's papers, except LeNet-5."""

    activation: f.Activation = "scaled_tanh"
    output: Literal["tanh", "softmax"] = "tanh"
    init: Literal["lecun", "torch", "xavier"] = "xavier"


class LeNet5Model(PaperModel):
    """Arguments of `LeNet5`."""

    output: Literal["rbf", "softmax"] = "rbf"  # type: ignore[assignment]


class KnownLoss(Target):
    """Arguments of lenetexp's losses."""

    label_smoothing: f.BelowOne = ABSENT
    j: f.AboveZero = ABSENT


LOSSES = ("lenetexp.models.CrossEntropy", "lenetexp.models.MaximumAPosteriori", "lenetexp.models.SquaredError")
CROSS_ENTROPY = KnownLoss.model_validate({"_target_": "lenetexp.models.CrossEntropy", "label_smoothing": 0.0})


class MLPModel(PaperModel):
    """Arguments of the fully connected nets."""

    hidden: list[f.Count] = ABSENT


class ClassicalModel(Target):
    """Arguments of the classifiers that are fitted in closed form. Each has some of them."""

    deslant: bool = ABSENT
    squash: bool = ABSENT
    k: f.Count = ABSENT
    components: f.Components = ABSENT
    degree: f.Count = ABSENT
    C: f.AboveZero = ABSENT
    gamma: f.AboveZero = ABSENT
    coef0: f.NotNegative = ABSENT


CLASSICAL = ("LinearClassifier", "PairwiseLinear", "QuadraticClassifier", "NearestNeighbours", "PolynomialSVM")

MODELS: dict[str, type[Target]] = {
    "lenetexp.models.LeNet": LeNetModel,
    "lenetexp.models.LeNet1989": PaperModel,
    "lenetexp.models.LeNet1": PaperModel,
    "lenetexp.models.LeNet4": PaperModel,
    "lenetexp.models.LeNet5": LeNet5Model,
    "lenetexp.models.BoostedLeNet4": PaperModel,
    "lenetexp.models.MLP": MLPModel,
    **{f"lenetexp.models.{name}": ClassicalModel for name in CLASSICAL},
}


class Optimizer(Target):
    """Arguments that every optimizer has."""

    lr: f.AboveZero = ABSENT


class KnownOptimizer(Optimizer):
    """Arguments of torch's and lenetexp's optimizers. torch itself accepts some values that make no sense."""

    momentum: f.BelowOne = ABSENT
    weight_decay: f.NotNegative = ABSENT
    betas: Annotated[list[f.BelowOne], Field(min_length=2, max_length=2)] = ABSENT
    alpha: f.BelowOne = ABSENT
    lr_decay: f.NotNegative = ABSENT
    nesterov: bool = ABSENT
    fused: bool = ABSENT
    mu: f.AboveZero = ABSENT
    samples: f.Count = ABSENT


class Scheduler(Target):
    """When a scheduler is stepped."""

    not_arguments = frozenset({"interval"})

    interval: Literal["epoch", "batch"] = "epoch"


class KnownScheduler(Scheduler):
    """Arguments of torch's and lenetexp's schedulers."""

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
    starts: list[f.Count] = ABSENT
    factors: list[f.NotNegative] = ABSENT


class Augment(Settings):
    """Limits of the random transformation that each training image gets, drawn anew every epoch."""

    shift: f.NotNegative = 0.0  # pixels, in any direction
    rotate: f.Degrees = 0.0  # degrees, both ways
    scale: f.BelowOne = 0.0  # share of the size, up or down
    shear: f.Slant = 0.0  # degrees that upright lines lean, both ways
    elastic: f.NotNegative = 0.0  # alpha of Simard et al. (2003): about 25 times the mean move of a pixel, in pixels


class Dataset(Target):
    """How a dataset is split and augmented. Every dataset has these settings."""

    not_arguments = frozenset({"validation", "split_seed", "augment"})

    root: f.Text = ABSENT
    validation: f.HeldOutOrTest = 0.1
    split_seed: f.Seed = 0
    augment: Augment | None = None


class KnownDataset(Dataset):
    """Arguments of lenetexp's datasets."""

    image_size: f.Count = ABSENT
    channels: Literal[1, 3] = ABSENT
    test: f.HeldOut = ABSENT


def check_arguments_of(kind_of: Callable[[str], type[Target] | None]) -> BeforeValidator:
    """Make a validator that checks the arguments of known classes.

    A custom class may use the same names for other things, so its arguments are not checked.

    Args:
        kind_of: Returns the settings class for a `_target_`, or None if it is unknown.
    """

    def check_known(values: Any) -> Any:
        target = values.get("_target_") if isinstance(values, Mapping) else None
        kind = kind_of(FORMER_TARGETS.get(target, target)) if isinstance(target, str) else None
        return kind.model_validate(values) if kind else values

    return BeforeValidator(check_known)


def check_arguments(kind: type[Target], *packages: str) -> BeforeValidator:
    """Make a validator that checks the arguments of all classes whose dotted names start with one of `packages`."""
    return check_arguments_of(lambda target: kind if target.startswith(packages) else None)


Model = Annotated[Target, check_arguments_of(MODELS.get)]
