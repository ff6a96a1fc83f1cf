"""Which keys define an experiment: its hash, its name, and how two experiments differ."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# The keys that do not define an experiment. Change any other, and it is another experiment.
# How a command was given. Never recorded.
INVOCATION_KEYS = ("resume", "trust", "job", "given")
# Where the record goes, what is measured on the way, where datasets lie. Recorded, but not part of the experiment.
RECORDING_KEYS = ("tracking", "diagnostics", "data_dir")
# What is known of the experiment. Recorded, but not part of it.
REMARK_KEYS = ("published",)
# Choices on the command line whose effect is in the composed config, or that only Hydra sees.
COMPOSITION_KEYS = ("sweep", "hydra")
# Part of the experiment, but not of its name: where files are, and where and how the arithmetic is done.
UNNAMED_GROUPS, UNNAMED_KEYS = ("device",), ("dataset.root", "optimizer.fused")
# These images are the same wherever they lie. A folder of pictures is told apart by its place.
SAME_WHEREVER = "lenetexp.datasets.torchvision_dataset"

# Settings that did not exist before, as everything behaved then: without them, older runs keep their hashes.
ADDED = {
    "model.init": "torch",
    "loss._target_": "lenetexp.losses.CrossEntropy",
    "loss.label_smoothing": 0.0,
    "ema": None,
}

# Values that were called otherwise before, with their former names: older runs keep their hashes.
FORMER_VALUES: dict[str, tuple[Any, Any]] = {"device.threads": ("auto", None)}

NOT_SET = "–"  # stands for a setting that a run does not have, beside others that have it
# The columns of results in tables and reports: a key that ends in one of these words keeps its whole name.
RESULT_NAMES = (
    "validation", "epoch", "test", "seconds", "status", "published", "runs", "deviation", "ended", "why", "run",
)  # fmt: skip

# Packages whose classes a stored config may name without being told to.
TRUSTED = ("lenetexp", "torch", "torchvision")


def defines_experiment(key: str) -> bool:
    """Whether a key, dotted or as it is typed, is part of what is run."""
    group = re.split(r"[./]", key.lstrip("+~"))[0]
    return group not in (*INVOCATION_KEYS, *RECORDING_KEYS, *REMARK_KEYS, *COMPOSITION_KEYS)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested settings under its dotted name; a list is a leaf."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves that define an experiment."""
    flat = dict(leaves(values))
    if flat.get("dataset._target_") == SAME_WHEREVER:
        flat.pop("dataset.root", None)
    for key, (value, former) in FORMER_VALUES.items():
        if flat.get(key) == value:
            flat[key] = former
    known = {key: value for key, value in flat.items() if (key, value) not in ADDED.items()}
    return {key: _as_typed(value) for key, value in known.items() if defines_experiment(key)}


def _as_typed(value: Any) -> Any:
    """1.0 as 1: on the command line they are the same."""
    if isinstance(value, list):
        return [_as_typed(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def config_hash(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that two runs share if they are the same experiment."""
    return digest(identity(values))


def digest(content: Any) -> str:
    """Twelve hexadecimal digits of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two experiments differ, with both values; "not set" where a key is missing."""
    before, after = identity(then), identity(now)
    both = {key: (before.get(key, "not set"), after.get(key, "not set")) for key in {**after, **before}}
    return {key: (old, new) for key, (old, new) in both.items() if old != new}


def swept_name(swept: Mapping[str, str]) -> str:
    """Swept keys and values in short: lr=0.1 activation=relu."""
    pairs = zip(short_keys(swept), swept.values(), strict=True)
    return " ".join(f"{name}={short(value)}" for name, value in pairs if value != NOT_SET)


def short_keys(keys: Iterable[str]) -> list[str]:
    """Keys by their ends, a class by its group; whole keys where two ends are the same, or one is a result's name."""
    short_of = {key: re.sub(r"\.(_target_|name)$", "", key).rpartition(".")[2] for key in keys}
    ends = [*short_of.values(), *RESULT_NAMES]
    return [end if ends.count(end) == 1 else key for key, end in short_of.items()]


def short(value: str) -> str:
    """A long number, as a search draws it, with four significant digits."""
    try:
        return value if len(value) <= 8 or value.isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def name_of(overrides: Iterable[str]) -> str:
    """A run's name, from what its command line asks for; empty if that is the default."""
    pairs = [word.lstrip("+").partition("=") for word in overrides]
    asked = {key: value for key, _, value in pairs if value and defines_experiment(key) and is_named(key)}
    return swept_name(asked)[:120]  # what MLflow's table of runs can show


def is_named(key: str) -> bool:
    """Whether names and titles tell a key's value."""
    return key not in UNNAMED_KEYS and re.split(r"[./]", key)[0] not in UNNAMED_GROUPS


def trust_needed(targets: Iterable[str]) -> str:
    """What a command that loads a run with these classes must add: "" or " 'trust=[mine]'"."""
    packages = dict.fromkeys(target.partition(".")[0] for target in targets if target)
    custom = [package for package in packages if package not in TRUSTED]
    return f" 'trust=[{','.join(custom)}]'" if custom else ""
