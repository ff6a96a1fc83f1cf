"""Where a command line enters: Hydra composes, one function runs, every mistake ends in one sentence.

Nothing heavy is imported here: `--help`, `--cfg job` and tab completion answer at once.
"""

import os
import re
import secrets
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn
from urllib.parse import unquote

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lenetexp.config import Settings, UserError, check, nearest, one_line

# Letters and digits that keep two folders apart whose commands start in the same second.
OmegaConf.register_new_resolver(
    "lenetexp.random",
    lambda length: secrets.token_hex(length)[:length],
    use_cache=True,
    replace=True,
)


def start(
    main: Callable[[], None],
    renamed: Mapping[str, str] = MappingProxyType({}),
    sweeps: bool = False,
) -> None:
    """Runs a function that `hydra.main` decorates; what a user can put right is told in one sentence.

    A module in the working directory can be named by a `_target_`.

    Args:
        main: the function.
        renamed: keys as they are typed, and as the config has them.
        sweeps: whether -m makes sense.
    """
    multirun = bool({"-m", "--multirun"} & {*sys.argv})
    if multirun and not sweeps:
        _leave("-m: is for run.py alone")
    for i, word in enumerate(sys.argv):
        key, sign, value = word.partition("=")
        if sign and key in renamed:
            sys.argv[i] = f"{renamed[key]}={value}"
    sys.path.append(str(Path.cwd()))
    # conf/hydra/launcher/ray.yaml has the name of the plugin's own choice, and is checked against that.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/ray' is validated against ConfigStore")
    # Hydra's own report of an error is a dump; this hands the exception over instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _leave(sentence(error))
    except yaml.YAMLError as error:
        _leave(f"a config file is not YAML: {one_line(error)}")
    except ValueError as error:
        if str(error).startswith("Only one of --run"):  # --cfg beside -m
            _leave(one_line(error))
        if "Config group override" not in str(error):
            raise
        _leave(f"{one_line(error)}; a group must be one of its options, e.g. optimizer=sgd")
    except AssertionError as error:
        if "Unexpected type for root" not in str(error):
            raise
        _leave("a setting inside one that is null cannot be set; give the whole, e.g. key={inner:1}")
    except BrokenPipeError:
        _leave_quietly()
    except OSError as error:
        if error.filename is None:  # a write that found no room
            if error.errno is None:
                raise
            _leave(f"a file cannot be written ({error.strerror})")
        in_sweep = multirun or any(word.startswith("sweep=") for word in sys.argv)
        key = "hydra.sweep.dir" if in_sweep else "hydra.run.dir"
        _leave(f"{key}={error.filename}: cannot be made or written ({error.strerror})")
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(said: str) -> NoReturn:
    """Ends the command with one sentence on one line, whatever was typed into it."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)
    sys.exit(f"error: {shown}")


def _leave_quietly() -> NoReturn:
    """Who read the output wants no more of it, as in … | head: ends as a program that SIGPIPE ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def task(config: DictConfig, kind: type[Settings], function: str) -> Any:
    """Checks the composed config and calls a function with what came out, the config and a folder.

    Args:
        config: as Hydra composed it.
        kind: what it is turned into.
        function: dotted name of what takes (settings, config as plain dicts, folder for output); its
            module is imported only once the config is known to be good.

    Hydra makes the folder before it calls; a task that ends before it wrote anything leaves none.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    in_sweep = HydraConfig.get().mode != RunMode.RUN
    if in_sweep and (place := unquote(OmegaConf.select(config, "job.cwd") or "")) and Path(place).is_dir():
        # A process of Ray's may have been started anywhere.
        os.chdir(place)
        sys.path.append(place)
    try:
        values = plain(config)
        if "given" in kind.model_fields:
            values["given"] = list(HydraConfig.get().overrides.task)
        settings = check(kind, values)
        if not values.get("resume"):  # a run that is gone on with has a folder already
            must_be_empty(folder)
        with _log(folder) if in_sweep else nullcontext():
            return get_method(function)(settings, values, folder)
    except BrokenPipeError:
        _leave_quietly()
    except (UserError, OmegaConfBaseException, OSError) as error:
        if in_sweep:
            raise UserError(sentence(error)) from None
        # Leaving by an exception, Hydra would put its own line above the sentence.
        _leave(sentence(error))
    finally:
        with suppress(OSError):
            folder.rmdir()


def must_be_empty(folder: Path) -> None:
    """Nothing that is there is overwritten.

    Raises:
        UserError: `folder` holds files beside the log of the command that is running.
    """
    if any(path.name != "log.txt" for path in folder.iterdir()):
        raise UserError(f"hydra.run.dir={folder}: must be a new or an empty folder; this one holds files")


def plain(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain dicts and lists, everything resolved."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return values  # type: ignore[return-value]


@contextmanager
def _log(folder: Path) -> Iterator[None]:
    """One of several jobs writes to log.txt in its folder; whatever ends it, its sweep gets a sentence.

    An exception of an unknown kind could not be handed from one process to another.
    """
    with (folder / "log.txt").open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            yield
        except UserError as error:
            print(f"error: {error}")
            raise
        except Exception as error:
            traceback.print_exc()
            raise UserError(
                f"{type(error).__name__}: {one_line(error)} (see {folder / 'log.txt'})"
            ) from None


def sentence(error: Exception) -> str:
    """One sentence that names the key or file, the value, and what would be allowed."""
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = ", ".join(error.options)
        return f"{group}={choice}: must be one of {options}{nearest(choice, error.options)}"
    if isinstance(error, ConfigCompositionException) and (said := _not_composed(str(error), cause)):
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


def _not_composed(told: str, cause: BaseException | None) -> str | None:
    """A sentence for what Hydra tells of an override that it cannot apply; None for what else it tells."""
    if "Ambiguous value for argument" in told:
        given = told.partition("argument '")[2].partition("'\n")[0]
        return f"{given}: several values make a sweep, which needs -m; one value with a comma needs quotes"
    if no_group := re.match(
        r"(?s)Could not override '.+?'\.?\s+No match in the defaults list.*\+(\S+)", told
    ):
        return f"{no_group[1]}: there is no such setting here"
    overridden = re.match(r"Could not override '(.+?)'(?:.*\n.*use \+(.*))?", told)
    if not overridden or not isinstance(cause, OmegaConfBaseException):
        return None
    if not isinstance(node := cause.parent_node, DictConfig):
        return None
    key, given = overridden[1], overridden[2] or overridden[1]
    # The part of the key that is not there may stand before its last dot.
    known = [part for part in str(node._get_full_key("")).split(".") if part]
    unknown = (key.split(".")[len(known) :] or [str(cause.key)])[0]
    keys = [str(k) for k in node if k not in ("hydra", "_target_")]
    if not known and "seed" in keys:  # run.py's
        keys = ["experiment", "sweep", *keys]
    place = ".".join(known)
    if not keys:
        return f"{given}: {place} has no settings inside; give it whole: {place}=VALUE"
    there = f"{place} has" if known else "there are"
    return f"{given}: there is no such setting; {there} {', '.join(keys)}{nearest(unknown, keys)}"
