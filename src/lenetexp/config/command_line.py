"""The words of this command line, and the config files that they choose."""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig

from lenetexp.config.identity import flatten_settings

CONF = Path(__file__).resolve().parents[3] / "conf"
GLOBAL = "# @package _global_"  # the first line of a file that sets more than its own group

# Words with a meaning of their own that a setting may be, beside what the user alone knows.
SPECIAL_WORDS = {
    "run": ("latest", "best"),
    "which": ("latest",),
    "runs": ("all", "latest:3"),
    "resume": ("true", "false"),
}


def parse_typed_settings() -> dict[str, str]:
    """Return the settings that were typed on this command line, or for this job of a sweep, by key."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    pairs = [word.lstrip("+").partition("=") for word in (*sys.argv[1:], *overrides)]
    return {key: value for key, equals, value in pairs if equals}


def list_config_folders() -> list[Path]:
    """List the folders that are searched for config files, the one of `--config-dir` first."""
    words = [part for word in sys.argv for part in word.split("=", 1)]  # --config-dir=a is --config-dir a
    return [*(Path(value) for flag, value in pairwise(words) if flag in ("--config-dir", "-cd")), CONF]


def list_options(group: str) -> list[str]:
    """List the options of a config group. Options in subfolders have their path: `lecun_1998/svm`."""
    files = {
        str(path.relative_to(folder / group).with_suffix("").as_posix())
        for folder in list_config_folders() for path in (folder / group).rglob("*.yaml") if path.stem[0] != "_"
    }  # fmt: skip
    return sorted(files)


def read_config(name: str) -> dict[str, Any]:
    """Read a config file without composing it, from the first folder that has it. Return {} if none has."""
    for path in (folder / f"{name}.yaml" for folder in list_config_folders()):
        if path.is_file():
            values = yaml.safe_load(path.read_text())
            return values if isinstance(values, dict) else {}
    return {}


def read_command_config() -> dict[str, Any]:
    """Read the main config file of this command, with its groups and their defaults under "defaults"."""
    name = Path(sys.argv[0]).stem
    values = read_config("config" if name in ("run", "find_lr") else name)
    entries = [entry for entry in values.get("defaults", ()) if isinstance(entry, dict)]
    groups = {group: option for entry in entries for group, option in entry.items() if " " not in group}
    return {**values, "defaults": groups}


def suggest_setting(word: str) -> str:
    """Return the setting that a bare word seems to mean: `experiment=tutorial` for `tutorial`. "" if there is none."""
    config = read_command_config()
    if word in (*config, *config["defaults"]):
        return f"{word}=…"
    for group in sorted(config["defaults"], key=("experiment", "sweep").__contains__, reverse=True):
        if word in list_options(group):
            return f"{group}={word}"
    for key, words in SPECIAL_WORDS.items():
        if key in config and word in words:
            return f"{'sweep' if key == 'which' else key}={word}"
    return next((f"{key}={word}" for key in ("images", "run") if key in config), "")


def find_option_file(group: str) -> Path | None:
    """Return the file of the option that the command line chooses in a group.

    Of the group `local` it is conf/local/machine.yaml.
    """
    option = parse_typed_settings().get(group, "machine" if group == "local" else "")
    paths = [folder / group / f"{option}.yaml" for folder in list_config_folders()]
    path = next(filter(Path.is_file, paths), None)
    return path.relative_to(Path.cwd()) if path and path.is_relative_to(Path.cwd()) else path


def find_setting_file(key: str) -> Path | None:
    """Return the config file that sets `key`, or None if the key was typed."""
    groups = {"local": "machine", **parse_typed_settings()}
    if any(f"{key}.".startswith(f"{other}.") and not list_options(other) for other in groups):
        return None
    for group, option in groups.items():
        if path := find_option_file(group):
            prefix = "" if path.read_text().startswith(GLOBAL) else f"{group}."
            if any(
                f"{key}.".startswith(f"{leaf}.")
                for leaf, _ in flatten_settings(read_config(f"{group}/{option}"), prefix)
            ):
                return path
    return None
