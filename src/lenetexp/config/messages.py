"""One sentence for every mistake that pydantic, Hydra or OmegaConf reports: the key, its value, what is allowed."""

import errno
import re
import shlex
import sys
import traceback
from pathlib import Path

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from lenetexp.config.command_line import find_setting_file, list_options, suggest_setting
from lenetexp.errors import UserError, format_error, suggest_word

# What is wrong, by pydantic's name for it.
SENTENCES = {
    "missing": "{key}: is missing from the config",
    "extra_forbidden": "{key}={value}: there is no such setting",
    "value_error": "{key}={value}: must be {error}",
    "literal_error": "{key}={value}: must be {expected}",
    "bool_type": "{key}={value}: must be true or false",
    "string_too_short": "{key}={value}: must not be empty",
    "too_short": "{key}={value}: must have {min_length} items",
    "too_long": "{key}={value}: must have {max_length} items",
    "list_type": "{key}={value}: must be a list, as [a,b]",
    "model_type": "{key}={value}: must be settings by name, as in conf/",
    "dict_type": "{key}={value}: must be settings by name, as in conf/",
}


def explain_validation(error: ValidationError) -> str:
    """Write the sentence for the first mistake that pydantic reports."""
    problem = error.errors(include_url=False)[0]
    value = problem["input"]
    # As one would type it, shortened if it is long.
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    details = {
        **problem.get("ctx", {}),
        "key": ".".join(map(str, problem["loc"])),
        "value": text if len(text) <= 80 else f"{text[:77]}…",
        "message": problem["msg"].replace("Input should be", "must be"),
    }
    if problem["type"] == "literal_error":
        options = details["expected"].replace("'", "")
        details["expected"] = options + suggest_word(str(value), re.split(", | or ", options))
    sentence = SENTENCES.get(problem["type"], "{key}={value}: {message}").format(**details)
    file = find_setting_file(details["key"])
    return f"{sentence} (in {file})" if file else sentence


def explain_exception(error: Exception) -> str | None:
    """Write the sentence for the exception that ended a command. Return None if it is not a user's mistake."""
    match error:
        case MissingConfigException(missing_cfg_file=str(file), options=[_, *_] as names):
            group, _, choice = file.rpartition("/")
            options = [option for option in names if not option.startswith("_")]
            in_folders = [option for option in list_options(group) if option.endswith(f"/{choice}")]
            meant = suggest_word(choice, options) or "".join(f"; did you mean {option}?" for option in in_folders[:1])
            return f"{group}={choice}: must be one of {', '.join(options)}{meant}"
        case MissingMandatoryValue():
            return f"{error.full_key}: must be given, e.g. {error.full_key}=VALUE"
        case OverrideParseException() if "-m" in sys.argv and re.search("=,|,,|,$", error.override):
            key = error.override.partition("=")[0]
            return f"{error.override}: must have a value on both sides of each comma and no space, as {key}=1,2,3"
        case OverrideParseException():
            return _explain_word(error.override, str(error))
        case UserError() | HydraException() | OmegaConfBaseException():
            cause = error.__cause__
            if isinstance(error, ConfigCompositionException) and (sentence := _explain_composition(str(error), cause)):
                return sentence
            reason = f": {format_error(cause)}" if isinstance(cause, OmegaConfBaseException) else ""
            return f"{format_error(error)}{reason}"
        case OSError(filename=str() | Path() as file):
            return f"{file}: cannot be read or written ({error.strerror or format_error(error)})"
        case OSError(
            errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG | errno.EROFS | errno.EIO
        ):  # in the midst of a file
            return f"a file cannot be written ({error.strerror})"
        case UnicodeDecodeError() if config_file := _find_config_file(error):
            return f"{config_file}: must be text in UTF-8 ({format_error(error)})"
        case yaml.YAMLError():
            return f"a config file is not YAML: {format_error(error)}"
        case ValueError() if str(error).startswith("Only one of --run"):  # --cfg together with -m
            return format_error(error)
        case ValueError() if "Config group override" in str(error):
            return f"{format_error(error)}; a group must be one of its options, e.g. optimizer=sgd"
        case AssertionError() if "Unexpected type for root" in str(error):
            return "a setting inside one that is null cannot be set; give all of it, e.g. key={inner:1}"
    return None


def _find_config_file(error: Exception) -> str | None:
    """Return the path of the config file that Hydra was reading when it raised the error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "load_config"]
    return frames[-1].f_locals.get("full_path") if frames else None


def _explain_word(word: str, message: str) -> str:
    """Write the sentence for a word of the command line that Hydra cannot parse."""
    key, equals, value = word.partition("=")
    if not equals:
        meant = suggest_setting(word)
        return f"{word}: must be key=value{f'; did you mean {meant}?' if meant else ''}"
    if word != (stripped := f"{key.strip()}={value.strip()}"):
        return f"{word}: must be key=value without spaces around it: {stripped}"
    if re.search(r"[\s()\[\],{}'\"]|[^\x00-\x7f]", value):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        quoted = shlex.quote(f'{key}="{escaped}"')
        return f"{word}: a value with such characters needs quotes, and the shell takes one pair away: {quoted}"
    reason = format_error(message.partition("\nSee ")[0].partition("\n")[2].partition(" expecting ")[0])
    return f"{word}: must be key=value as Hydra reads it ({reason})"


def _explain_composition(message: str, cause: BaseException | None) -> str | None:
    """Write the sentence for an override that Hydra cannot apply. Return None for its other messages."""
    if "Ambiguous value for argument" in message:
        word = message.partition("argument '")[2].partition("'\n")[0]
        return f"{word}: several values make a sweep, which needs -m; one value with a comma needs quotes"
    if no_group := re.match(r"(?s)Could not override '.+?'\.?\s+No match in the defaults list.*\+(\S+)", message):
        return f"{no_group[1]}: there is no such setting here"
    failure = re.match(r"Could not override '(.+?)'(?:.*\n.*use \+(.*))?", message)
    if not failure or not isinstance(cause, OmegaConfBaseException):
        return None
    if not isinstance(node := cause.parent_node, DictConfig):
        return None
    key, word = failure[1], failure[2] or failure[1]
    # The missing part of the key may come before its last dot.
    place_parts = [part for part in str(node._get_full_key("")).split(".") if part]
    unknown = (key.split(".")[len(place_parts) :] or [str(cause.key)])[0]
    keys = [str(k) for k in node if k not in ("hydra", "_target_")]
    place = ".".join(place_parts)
    inner = [] if place_parts else _list_inner_settings(node)
    if meant := [name for name in inner if name.rpartition(".")[2].lower() == unknown.lower()]:
        return f"{word}: there is no such setting; did you mean {' or '.join(meant)}?"
    if not place_parts and "seed" in keys:  # run.py's own config
        keys = ["experiment", "sweep", *keys]
    if not keys:
        return f"{word}: {place} has no settings inside; give all of it: {place}=VALUE"
    there = f"{place} has" if place_parts else "there are"
    has = f"{there} {', '.join(keys)}{suggest_word(unknown, [*keys, *inner])}"
    return f"{word}: there is no such setting; {has}{_explain_swept(word)}"


def _explain_swept(word: str) -> str:
    """Explain how to set a key that only some options of a swept group have.

    Hydra composes the config without the swept groups first, so it knows none of their keys.
    """
    key, _, value = word.partition("=")
    groups = ("experiment", key.partition(".")[0])
    swept = [one for one in sys.argv if one.partition("=")[0] in groups and "," in one]
    if not swept or "-m" not in sys.argv:
        return ""
    if key == "dataset.root" and "image_folder" not in swept[0]:
        return f"; for all datasets of a sweep write data_dir={value}"
    return f"; if all of {swept[0]} have it, write ++{word}; if not, sweep those that have it by themselves"


def _list_inner_settings(config: DictConfig) -> list[str]:
    """List the full names of all settings inside groups, each as it is typed."""
    groups = {str(key): value for key, value in config.items_ex(resolve=False) if key != "hydra"}
    return [f"{key}.{name!s}" for key, group in groups.items() if isinstance(group, DictConfig) for name in group]
