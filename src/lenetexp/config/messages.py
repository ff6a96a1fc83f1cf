"""One sentence for every mistake that pydantic, Hydra or OmegaConf reports: the key, the value, what is allowed."""

import re
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from lenetexp.errors import nearest, one_line


def of_validation(error: ValidationError, values: Mapping[str, Any]) -> str:
    """The sentence for the first mistake that pydantic found in `values`."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(_path(problem["loc"], values))
    value = _typed(problem["input"])
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
    """The keys of a mistake's place, without the union tags that pydantic inserts."""
    path = []
    for i, part in enumerate(loc):
        inside = isinstance(values, Mapping) and part in values
        if inside or (isinstance(values, list) and isinstance(part, int)):
            values = values[part]
        elif i < len(loc) - 1:
            continue
        path.append(str(part))
    return path


def _typed(value: Any) -> str:
    """A value as one would type it, shortened if it is long."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def of_exception(error: Exception) -> str:
    """The sentence for whatever ended a command: a `UserError`, or one of Hydra's, OmegaConf's or the system's."""
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = [option for option in error.options if not option.startswith("_")]
        return f"{group}={choice}: must be one of {', '.join(options)}{nearest(choice, options)}"
    if isinstance(error, ConfigCompositionException) and (said := _of_composition(str(error), cause)):
        return said
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: must be given, e.g. {error.full_key}=VALUE"
    if isinstance(error, OverrideParseException):
        reason = one_line(str(error).partition("\nSee ")[0].partition("\n")[2])
        return f"{error.override}: must be key=value as Hydra reads it ({reason})"
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        place = error.filename or HydraConfig.get().runtime.output_dir
        return f"{place}: cannot be read or written ({error.strerror or one_line(error)})"
    return one_line(error) + (f": {one_line(cause)}" if isinstance(cause, OmegaConfBaseException) else "")


def _of_composition(message: str, cause: BaseException | None) -> str | None:
    """The sentence for an override that Hydra cannot apply; None for its other messages."""
    if "Ambiguous value for argument" in message:
        given = message.partition("argument '")[2].partition("'\n")[0]
        return f"{given}: several values make a sweep, which needs -m; one value with a comma needs quotes"
    if no_group := re.match(r"(?s)Could not override '.+?'\.?\s+No match in the defaults list.*\+(\S+)", message):
        return f"{no_group[1]}: there is no such setting here"
    overridden = re.match(r"Could not override '(.+?)'(?:.*\n.*use \+(.*))?", message)
    if not overridden or not isinstance(cause, OmegaConfBaseException):
        return None
    if not isinstance(node := cause.parent_node, DictConfig):
        return None
    key, given = overridden[1], overridden[2] or overridden[1]
    # The missing part of the key may come before its last dot.
    known = [part for part in str(node._get_full_key("")).split(".") if part]
    unknown = (key.split(".")[len(known) :] or [str(cause.key)])[0]
    keys = [str(k) for k in node if k not in ("hydra", "_target_")]
    if not known and "seed" in keys:  # run.py's own config
        keys = ["experiment", "sweep", *keys]
    place = ".".join(known)
    if not keys:
        return f"{given}: {place} has no settings inside; give all of it: {place}=VALUE"
    there = f"{place} has" if known else "there are"
    return f"{given}: there is no such setting; {there} {', '.join(keys)}{nearest(unknown, keys)}"
