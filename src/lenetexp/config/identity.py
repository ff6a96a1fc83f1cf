"""The keys that define an experiment: its hash, its name, and how two experiments differ."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# The keys that do not define an experiment. Change any other, and it is another experiment.
# How a command was given. Never recorded.
INVOCATION_KEYS = ("resume", "trust", "job", "overrides")
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

# Names that stored runs hold, and what has them now. They mean the same experiment, under the same hash.
FORMER_TARGETS = {
    "lenetexp.losses.CrossEntropy": "lenetexp.models.CrossEntropy",
    "lenetexp.losses.SquaredError": "lenetexp.models.SquaredError",
    "lenetexp.losses.MaximumAPosteriori": "lenetexp.models.MaximumAPosteriori",
    "lenetexp.optim.DiagonalLevenbergMarquardt": "lenetexp.training.DiagonalLevenbergMarquardt",
    "lenetexp.optim.piecewise": "lenetexp.training.piecewise",
    "lenetexp.optim.warmup_cosine": "lenetexp.training.warmup_cosine",
}
FIRST_NAMES = {present: former for former, present in FORMER_TARGETS.items()}

# Settings that did not exist before, as everything behaved then: without them, older runs keep their hashes.
ADDED = {
    "model.init": "torch",
    "loss._target_": "lenetexp.models.CrossEntropy",
    "loss.label_smoothing": 0.0,
    "ema": None,
}

NOT_SET = "–"  # stands for a setting that a run does not have, beside others that have it
# The columns of results in tables and reports: a key that ends in one of these words keeps its whole name.
RESULT_NAMES = (
    "validation", "epoch", "test", "seconds", "status", "published", "runs", "deviation", "ended", "why", "run",
)  # fmt: skip

# Packages whose classes a stored config may name without being told to.
TRUSTED = ("lenetexp", "torch", "torchvision")


def is_part_of_experiment(key: str) -> bool:
    """Return whether a key, dotted or as it is typed, defines what is run."""
    group = re.split(r"[./]", key.lstrip("+~"))[0]
    return group not in (*INVOCATION_KEYS, *RECORDING_KEYS, *REMARK_KEYS, *COMPOSITION_KEYS)


def flatten_settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested settings under its dotted name. A list is a leaf."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten_settings(value, f"{name}.")
        else:
            yield name, value


def select_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves that define an experiment."""
    flat = dict(flatten_settings(values))
    if flat.get("dataset._target_") == SAME_WHEREVER:
        flat.pop("dataset.root", None)
    if flat.get("device.threads") == "auto":
        flat["device.threads"] = None  # the default before there was auto: older runs keep their hashes
    for key, value in flat.items():
        if key.endswith("_target_"):
            flat[key] = FORMER_TARGETS.get(value, value)
    leaves = {key: value for key, value in flat.items() if (key, value) not in ADDED.items()}
    return {key: _normalize_number(value) for key, value in leaves.items() if is_part_of_experiment(key)}


def _normalize_number(value: Any) -> Any:
    """Turn 1.0 into 1: on the command line they are the same."""
    if isinstance(value, list):
        return [_normalize_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def hash_config(values: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits that two runs share if they are the same experiment."""
    leaves = select_identity(values)
    first = {key: FIRST_NAMES.get(value, value) for key, value in leaves.items() if key.endswith("_target_")}
    return compute_digest(leaves | first)


def compute_digest(content: Any) -> str:
    """Return twelve hexadecimal digits of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def list_differences(previous: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys in which two experiments differ, each with both values; "not set" where one lacks the key."""
    before, after = select_identity(previous), select_identity(present)
    both = {key: (before.get(key, "not set"), after.get(key, "not set")) for key in {**after, **before}}
    return {key: (old, new) for key, (old, new) in both.items() if old != new}


def format_swept(swept: Mapping[str, str]) -> str:
    """Format swept keys and values in short: `lr=0.1 activation=relu`."""
    pairs = zip(shorten_keys(swept), swept.values(), strict=True)
    return " ".join(f"{name}={shorten_value(value)}" for name, value in pairs if value != NOT_SET)


def shorten_keys(keys: Iterable[str]) -> list[str]:
    """Shorten keys to their last parts, and the key of a class to its group.

    A key stays whole if two would read the same, or if it would read like a column of results.
    """
    short_of = {key: re.sub(r"\.(_target_|name)$", "", key).rpartition(".")[2] for key in keys}
    ends = [*short_of.values(), *RESULT_NAMES]
    return [end if ends.count(end) == 1 else key for key, end in short_of.items()]


def shorten_value(value: str) -> str:
    """Shorten a long number, such as a search draws, to four significant digits."""
    try:
        return value if len(value) <= 8 or value.isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def format_run_name(overrides: Iterable[str]) -> str:
    """Return a run's name, from the settings on its command line. "" if there are none."""
    pairs = [word.lstrip("+").partition("=") for word in overrides]
    settings = {key: value for key, _, value in pairs if value and is_part_of_experiment(key) and is_named(key)}
    return format_swept(settings)[:120]  # what MLflow's table of runs can show


def is_named(key: str) -> bool:
    """Return whether names and titles include a key."""
    return key not in UNNAMED_KEYS and re.split(r"[./]", key)[0] not in UNNAMED_GROUPS


def format_trust(targets: Iterable[str]) -> str:
    """Return what must be added to a command that loads a run with these classes: "" or " 'trust=[mine]'"."""
    packages = dict.fromkeys(target.partition(".")[0] for target in targets if target)
    custom = [package for package in packages if package not in TRUSTED]
    return f" 'trust=[{','.join(custom)}]'" if custom else ""
