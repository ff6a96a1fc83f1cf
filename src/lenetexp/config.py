"""The composed config checked and turned into plain typed values, with messages a person can act on.

Imports neither torch nor mlflow: a whole sweep's configs can be judged before anything heavy is loaded.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import unquote

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
)


class UserError(Exception):
    """Something the user can put right, told in one sentence; ends the command without a traceback."""


def _number(
    allowed: str, holds: Callable[[float], bool], whole: bool = False, word: str | None = None
) -> PlainValidator:
    """A finite number for which `holds`, or `word`; any other value is answered with `allowed`."""

    def validate(value: Any) -> Any:
        if word is not None and value == word:
            return value
        kinds = int if whole else (int, float)
        # A flag is an int to Python; a config that says lr: true is a mistake all the same.
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        # What torch and NumPy can hold: a float, or an int of 64 bits.
        in_range = is_number and (abs(value) < 2**63 if isinstance(value, int) else isfinite(value))
        if in_range and holds(value):
            return value
        raise ValueError(allowed)

    return PlainValidator(validate)


AboveZero = Annotated[float, _number("a number above 0", lambda x: x > 0)]
NotNegative = Annotated[float, _number("a number, 0 or above", lambda x: x >= 0)]
BelowOne = Annotated[float, _number("a number from 0 to below 1", lambda x: 0 <= x < 1)]
Share = Annotated[float, _number("a number from 0 to 1", lambda x: 0 <= x <= 1)]
Degrees = Annotated[float, _number("a number of degrees from 0 to 180", lambda x: 0 <= x <= 180)]
Count = Annotated[int, _number("a whole number, 1 or more", lambda x: 1 <= x < inf, whole=True)]
FromZero = Annotated[int, _number("a whole number, 0 or more", lambda x: x >= 0, whole=True)]
Seed = Annotated[int, _number("a whole number from 0 to below 2^63", lambda x: 0 <= x < 2**63, True)]
HeldOut = Annotated[float, _number("a share of the images, above 0 and below 1", lambda x: 0 < x < 1)]
HeldOutOrTest = Annotated[
    float | Literal["test"],
    _number(
        'a share of the training images, above 0 and below 1, or "test"',
        lambda x: 0 < x < 1,
        word="test",
    ),
]
CountOrAuto = Annotated[
    int | Literal["auto"],
    _number("a whole number, 1 or more, or auto", lambda x: x >= 1, whole=True, word="auto"),
]
Text = Annotated[str, Field(min_length=1)]


def _named(value: Any, allowed: str) -> str:
    """A name; Hydra takes one of digits alone for a number."""
    if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        return str(value)
    raise ValueError(allowed)


RunId = Annotated[
    str, PlainValidator(lambda value: _named(value, "latest, best or the MLflow id of a run"))
]
SweepId = Annotated[
    str, PlainValidator(lambda value: _named(value, "latest or the MLflow id of a sweep (sweep=…)"))
]


def _places(value: Any) -> tuple[str, ...] | None:
    given = value if isinstance(value, list) else [value]
    allowed = "a file, a folder, a glob, or a list of those in brackets, as [a.png,b.png]"
    if given == []:
        raise ValueError(allowed)
    return None if value is None else tuple(_named(place, allowed) for place in given)


def _resume(value: Any) -> bool | str:
    return value if isinstance(value, bool) else _named(value, "true, false or the MLflow id of a run")


Resume = Annotated[bool | str, PlainValidator(_resume)]
Places = Annotated[tuple[str, ...] | None, PlainValidator(_places)]


def _address(value: Any) -> str:
    if isinstance(value, str) and "://" in value and not value.startswith("file:"):
        return value
    raise ValueError("an SQLite file (sqlite:///outputs/mlflow.db) or a server (http://127.0.0.1:5000)")


Address = Annotated[str, PlainValidator(_address)]

LONGEST_NAME = 120  # characters that the UI's table can still show

# The default of a key that a class may not have; where it is given, it may not be null.
ABSENT: Any = None

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "silu", "gelu", "scaled_tanh"]


class Settings(BaseModel):
    """Settings of which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Target(Settings):
    """Names a class or function by `_target_`; all other keys are its arguments.

    A key that is declared here or in a subclass is checked; any other is passed on as it is, so that
    a user's own class may have arguments of its own.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, serialize_by_alias=True)
    not_arguments: ClassVar[frozenset[str]] = frozenset()

    target: Text = Field(alias="_target_")

    @property
    def name(self) -> str:
        """The last part of the dotted name."""
        return self.target.rpartition(".")[2]

    def call(self) -> dict[str, Any]:
        """What `hydra.utils.instantiate` takes: `_target_` and the arguments that were given."""
        return self.model_dump(exclude_unset=True, exclude=set(self.not_arguments))


class LeNetModel(Target):
    """The settings of lenetexp's own net."""

    activation: Activation = "sigmoid"
    pooling: Literal["avg", "max"] = "avg"
    head_activation: bool = False


class Optimizer(Target):
    """What every optimizer has."""

    lr: AboveZero = ABSENT


class TorchOptimizer(Optimizer):
    """What torch's optimizers share; torch itself does not refuse all that makes no sense."""

    momentum: BelowOne = ABSENT
    weight_decay: NotNegative = ABSENT
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)] = ABSENT
    alpha: BelowOne = ABSENT
    lr_decay: NotNegative = ABSENT
    nesterov: bool = ABSENT
    fused: bool = ABSENT


class Scheduler(Target):
    """When a scheduler is stepped."""

    not_arguments = frozenset({"interval"})

    interval: Literal["epoch", "batch"] = "epoch"


class KnownScheduler(Scheduler):
    """What torch's schedulers and lenetexp's own share."""

    step_size: Count = ABSENT
    gamma: AboveZero = ABSENT
    milestones: list[Count] = ABSENT
    factor: AboveZero = ABSENT
    T_max: Count = ABSENT
    eta_min: NotNegative = ABSENT
    epochs: Count = ABSENT
    warmup: BelowOne = ABSENT
    final: Share = ABSENT
    max_lr: AboveZero = ABSENT
    pct_start: Share = ABSENT
    div_factor: AboveZero = ABSENT
    final_div_factor: AboveZero = ABSENT
    cycle_momentum: bool = ABSENT
    steps_per_epoch: CountOrAuto = ABSENT
    patience: FromZero = ABSENT
    threshold: NotNegative = ABSENT
    min_lr: NotNegative = ABSENT


class Augment(Settings):
    """How far each training image is moved, turned and scaled at random, anew every epoch."""

    shift: NotNegative = 0.0  # pixels, either way
    rotate: Degrees = 0.0  # either way
    scale: BelowOne = 0.0  # share of the size, up or down


class Dataset(Target):
    """How a dataset is split, and how its training images are moved."""

    not_arguments = frozenset({"validation", "split_seed", "augment"})

    root: Text = ABSENT
    validation: HeldOutOrTest = 0.1
    split_seed: Seed = 0
    augment: Augment | None = None


class KnownDataset(Dataset):
    """Where the images of lenetexp's own datasets come from."""

    image_size: Count = ABSENT
    channels: Literal[1, 3] = ABSENT
    test: HeldOut = ABSENT


class Device(Settings):
    """What to compute on, and how."""

    name: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Count | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    deterministic: bool = False


class Tracking(Settings):
    """Where the record goes."""

    uri: Address
    experiment: Text
    offline: bool = False


class SweepJob(Settings):
    """A run's place in a sweep. The sweep itself sets it."""

    parent: Text  # the sweep's own MLflow run
    # Both percent-encoded: whatever stands in them, they pass through any launcher's command line.
    cwd: Text  # the folder that the sweep was started in: every relative path is meant from there
    swept: Text  # JSON: the keys that the sweep varies, with this run's values as they were typed

    @property
    def values(self) -> dict[str, str]:
        """The swept keys with this run's values."""
        values: dict[str, str] = json.loads(unquote(self.swept))
        return values


def _by_target(*known: str) -> Discriminator:
    """Whether `_target_` is in a known place: a class of the user's own may use a name otherwise."""

    def which(values: Any) -> str:
        target = values.get("_target_") if isinstance(values, Mapping) else None
        return "known" if isinstance(target, str) and target.startswith(known) else "own"

    return Discriminator(which)


class RunConfig(Settings):
    """Everything that one run is told, checked."""

    # The plain settings come first: others are made of them, and the first mistake is the one told.
    seed: Seed
    epochs: Count
    batch_size: Count
    clip_norm: AboveZero | None
    patience: Count | None
    data_dir: Text
    resume: Resume
    trust: list[Text]
    job: SweepJob | None = None
    given: list[str] = []  # the overrides as they were typed; the command line itself sets it
    model: Annotated[
        Annotated[LeNetModel, Tag("known")] | Annotated[Target, Tag("own")],
        _by_target("lenetexp.models.LeNet"),
    ]
    optimizer: Annotated[
        Annotated[TorchOptimizer, Tag("known")] | Annotated[Optimizer, Tag("own")],
        _by_target("torch.optim."),
    ]
    scheduler: Annotated[
        Annotated[KnownScheduler, Tag("known")] | Annotated[Scheduler, Tag("own")],
        _by_target("torch.optim.", "lenetexp."),
    ]
    dataset: Annotated[
        Annotated[KnownDataset, Tag("known")] | Annotated[Dataset, Tag("own")],
        _by_target("lenetexp."),
    ]
    device: Device
    tracking: Tracking


class PredictConfig(Settings):
    """Everything that one prediction is told, checked."""

    # A machine's own settings (conf/local/) may be of runs, too.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    run: RunId
    count: Count
    images: Places
    invert: Literal["auto", True, False]
    root: Text | None
    trust: list[Text]
    device: Device
    tracking: Tracking


class SyncConfig(Settings):
    """Everything that one sending of journals is told, checked."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    folder: Text
    tracking: Tracking


class CompareConfig(Settings):
    """Everything that one comparison is told, checked."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    which: SweepId
    runs: Text | None
    tracking: Tracking


S = TypeVar("S", bound=Settings)


def check(kind: type[S], values: Mapping[str, Any]) -> S:
    """Turns a composed config, as plain dicts and lists, into `kind`.

    Raises:
        UserError: names the first key that is wrong, its value, and what would be allowed.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(_sentence(error, values)) from None


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested settings under its dotted name; a list is a leaf."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


@dataclass(frozen=True)
class Job:
    """One run that a sweep asks for."""

    overrides: tuple[str, ...]
    swept: dict[str, str]  # the keys that the sweep varies, with this job's values as they were typed
    settings: RunConfig
    config_hash: str

    @property
    def name(self) -> str:
        """What tells it from the sweep's other runs."""
        return swept_name(self.swept)


def swept_name(swept: Mapping[str, str]) -> str:
    """Swept keys and values as one says them: lr=0.1 activation=relu; whole keys if ends are the same."""
    ends = [key.rpartition(".")[2] for key in swept]
    said = ends if len(set(ends)) == len(ends) else list(swept)
    return " ".join(f"{key}={short(value)}" for key, value in zip(said, swept.values(), strict=True))


def short(value: str) -> str:
    """A number that a search drew, with as many digits as one reads."""
    try:
        return value if len(value) <= 8 or value.isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


# Keys that say how a run is given, not what is run.
HOW_IT_IS_GIVEN = ("resume", "trust", "job", "given")


def tells_runs_apart(key: str) -> bool:
    """Whether a key, as it is typed, says what is run: not how that is given or recorded."""
    group = re.split(r"[./]", key.lstrip("+~"))[0]
    return group not in (*HOW_IT_IS_GIVEN, "sweep", "tracking", "data_dir", "hydra")


def asked_for(words: Iterable[str]) -> str:
    """What a command line's overrides ask for, as a name for its run; nothing where that is the default."""
    pairs = [word.lstrip("+").partition("=") for word in words]
    return swept_name(
        {key: value for key, _, value in pairs if value and tells_runs_apart(key) and key != "dataset.root"}
    )[:LONGEST_NAME]


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves that make a training what it is: all but where its record goes and where its data lie."""
    flat = dict(leaves(values))
    elsewhere = {"data_dir", *HOW_IT_IS_GIVEN}
    if flat.get("dataset._target_") == "lenetexp.datasets.torchvision_dataset":
        elsewhere.add("dataset.root")  # the same images wherever they lie; others' roots tell them apart
    return {
        key: _as_whole(value)
        for key, value in flat.items()
        if key not in elsewhere and not key.startswith(("job.", "tracking."))
    }


def config_hash(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that two runs share when the same training was asked for."""
    return digest(identity(values))


def digest(content: Any) -> str:
    """Twelve hexadecimal digits of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _as_whole(value: Any) -> Any:
    """1.0 as 1: the command line makes no difference between them."""
    if isinstance(value, list):
        return [_as_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Whose classes a stored config may name.
TRUSTED = ("lenetexp", "torch", "torchvision")


def trust_for(targets: Iterable[str]) -> str:
    """What a command that loads a run with these classes has to add: nothing, or " 'trust=[mine]'"."""
    own = dict.fromkeys(target.partition(".")[0] for target in targets if target)
    strange = [module for module in own if module not in TRUSTED]
    return f" 'trust=[{','.join(strange)}]'" if strange else ""


def without_password(text: str) -> str:
    """`text` with *** for every password in a store's address."""
    return re.sub(r"(://[^/\s:]*:)(?!\d+(?:/|$))\S+(?=@)|(\bpassword=)[^&\s'\")]+", r"\1\2***", text)


def nearest(word: str, options: Iterable[str]) -> str:
    """ "; did you mean …?" for a mistyped word, or nothing where no option is near."""
    near = difflib.get_close_matches(word, list(options), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def one_line(error: BaseException | str) -> str:
    """An exception's message on one line, for the middle of a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _sentence(error: ValidationError, values: Mapping[str, Any]) -> str:
    """One sentence for the first thing that is wrong: key=value: what would be allowed."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(_path(problem["loc"], values))
    value = _shown(problem["input"])
    match problem["type"]:
        case "missing":
            return f"{key}: is missing from the config"
        case "extra_forbidden":
            return f"{key}={value}: there is no such setting"
        case "value_error":
            return f"{key}={value}: must be {problem['ctx']['error']}"
        case "literal_error":
            options = problem["ctx"]["expected"].replace("'", "")
            hint = nearest(str(problem["input"]), options.replace(" or ", ", ").split(", "))
            return f"{key}={value}: must be {options}{hint}"
        case "bool_type":
            return f"{key}={value}: must be true or false"
        case "string_too_short":
            return f"{key}={value}: must not be empty"
        case "too_short" | "too_long":
            return f"{key}={value}: must have {problem['ctx'].get('min_length', 2)} items"
        case "list_type":
            return f"{key}={value}: must be a list, as [a,b]"
        case "model_type" | "dict_type":
            return f"{key}={value}: must be settings by name, as in conf/"
        case _:
            return f"{key}={value}: {problem['msg'].replace('Input should be', 'must be')}"


def _path(loc: tuple[int | str, ...], values: Any) -> list[str]:
    """The keys of an error's place, without the union tags that pydantic puts between them."""
    path = []
    for i, part in enumerate(loc):
        inside = isinstance(values, Mapping) and part in values
        if inside or (isinstance(values, list) and isinstance(part, int)):
            values = values[part]
        elif i < len(loc) - 1:
            continue
        path.append(str(part))
    return path


def _shown(value: Any) -> str:
    """A value as one would type it, cut short when it is long."""
    text = {None: "null", True: "true", False: "false"}.get(value) if _plain(value) else None
    text = text or str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool)
