"""The entry point of every command. Hydra composes the config, one function runs, every user error is one line.

This module imports nothing heavy, so that `--help`, `--cfg job` and Tab completion answer at once.
"""

import atexit
import gc
import os
import re
import secrets
import signal
import sys
import threading
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, NoReturn, TextIO
from urllib.parse import unquote

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenetexp.config.completion import complete_words, format_bash_script
from lenetexp.config.help import format_other_commands, format_settings, list_groups_quickly
from lenetexp.config.messages import explain_exception
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.config.targets import Settings
from lenetexp.errors import DEBUG, UserError, format_error, is_debugging, mask_secrets, wrap_text

HYDRA_DEBUG = "HYDRA_FULL_ERROR"
LOG = "log.txt"  # what a sweep's job prints, in its own folder

# Letters and digits that keep the folders of two commands apart that start in the same second.
OmegaConf.register_new_resolver(
    "lenetexp.random", lambda length: secrets.token_hex(length)[:length], use_cache=True, replace=True
)


def start(main: Callable[[], None], aliases: Mapping[str, str] = MappingProxyType({}), sweeps: bool = False) -> None:
    """Run a command's `main`. Print user errors as one line.

    Args:
        main: A function decorated with `hydra.main`.
        aliases: The config's key for each key that is typed under another name.
        sweeps: Whether the command accepts `-m`.
    """
    if "--version" in sys.argv:
        print(f"lenetexp {version('lenetexp')}")
        return
    try:
        flags = _sort_words()
        if flags.multirun and not sweeps:
            raise UserError("-m: only run.py takes it")
    except UserError as error:
        _exit_with_error(error)
    OmegaConf.register_new_resolver(
        "lenetexp.settings", lambda *, _root_: format_settings(_root_, aliases), replace=True
    )
    OmegaConf.register_new_resolver("lenetexp.commands", format_other_commands, replace=True)
    if flags.help:
        list_groups_quickly()
    if flags.shell_completion and {"install=bash", "uninstall=bash"} & {*sys.argv}:
        print(format_bash_script(Path(sys.argv[0]).parent, install="install=bash" in sys.argv))
        return
    if flags.shell_completion:
        complete_words(aliases)
    for i, argument in enumerate(sys.argv):
        key, equals, value = argument.partition("=")
        if equals and key in aliases:
            sys.argv[i] = argument = f"{aliases[key]}={value}"
        if equals and key in ("run", "runs", "sweep", "resume") and re.fullmatch(r"\[?[0-9a-f,]+\]?", value):
            # Hydra reads 12e34567, the first characters of an id, as a number.
            sys.argv[i] = re.sub(r"\b\d+e\d+\b", r"'\g<0>'", argument)
    sys.path.append(str(Path.cwd()))  # for a `_target_` there
    # Our files in conf/hydra/launcher/ have the names of the plugins' own and are checked against those.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/\w+/\w+' is validated against")
    atexit.register(_unfreeze_objects)
    # Hydra prints its own report of an error unless it is told to raise, with a variable that is a user's, too.
    variables = {HYDRA_DEBUG: "1"} | ({DEBUG: "1"} if os.environ.get(HYDRA_DEBUG) == "1" else {})
    with env_override(variables):  # which a sweep's processes inherit
        try:
            with _exit_on_ctrl_c():
                main()
            gc.freeze()  # the process ends: nothing that is left need be looked through
        except KeyboardInterrupt:  # the second signal of what saves its state at the first
            sys.exit(130)
        except Exception as error:
            if isinstance(error, OSError) and _is_folder_error(error):
                multirun = flags.multirun or any(argument.startswith("sweep=") for argument in sys.argv)
                key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
                sentence = f"{key}={error.filename}: cannot be made or written ({error.strerror})"
                error = UserError(sentence).with_traceback(error.__traceback__)
            _exit_with_error(error)


def _sort_words() -> Namespace:
    """Put settings before flags, because argparse accepts none on both sides of one.

    Raises:
        UserError: A flag is unknown.
    """
    parser = get_args_parser()
    parser.error = _exit_with_usage  # type: ignore[method-assign]
    words = sys.argv[1:]
    flags, others = parser.parse_known_args(words)
    for word in others:
        if word.startswith("-"):
            key, equals, value = word.lstrip("-").replace("-", "_").partition("=")
            following = words[words.index(word) + 1 :][:1]
            value = value if equals else next((one for one in following if one in others + flags.overrides), "VALUE")
            raise UserError(f"{word}: there is no such flag; settings are typed as key=value: {key}={value}")
    settings = [*flags.overrides, *others]
    rest = [word for word in words if word not in (*settings, "-m", "--multirun")]
    sys.argv[1:] = [*(["-m"] if flags.multirun else []), *settings, *rest]
    return flags


def _exit_with_usage(message: str) -> NoReturn:
    raise UserError(format_error(message))


def _is_folder_error(error: OSError) -> bool:
    """Return whether Hydra, which creates the run's folder, could not create it."""
    return bool(error.filename) and traceback.extract_tb(error.__traceback__)[-1].name in ("makedirs", "mkdir")


@contextmanager
def _exit_on_ctrl_c() -> Iterator[None]:
    """End the command with "Stopped." after Ctrl-C, even if a library turns the interrupt into another error."""
    interrupted = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, as Python does, and remember it."""
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if not interrupted:
            raise
        print("Stopped.", flush=True)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)


def _unfreeze_objects() -> None:
    """Let the garbage collector free triton's objects, which it would otherwise report as leaked at exit."""
    if "triton" in sys.modules:
        gc.unfreeze()


def _exit_with_error(error: Exception) -> NoReturn:
    """End the command with one printable line for a user's mistake. Raise any other error again."""
    if isinstance(error, BrokenPipeError):  # the reader has gone, as in … | head: ends as SIGPIPE would end it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    if (sentence := explain_exception(error)) is None:
        raise error
    if is_debugging():
        print_traceback(error)
    sentence = mask_secrets(sentence, *sys.argv)
    sys.exit("error: " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence))


def print_traceback(error: BaseException) -> None:
    """Print an error with its causes on stderr, without passwords."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    print(mask_secrets("".join(traceback.format_exception(error)), *sys.argv), end="", file=sys.stderr)


def run_task(config: DictConfig, kind: type[Settings], function: str) -> Any:
    """Validate the config and call a command's function.

    Args:
        config: The config that Hydra composed.
        kind: The class of its settings.
        function: The dotted name of the function, called with the settings, the config as plain dicts and the output
            folder. Its module is imported here.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    in_sweep = HydraConfig.get().mode != RunMode.RUN
    if in_sweep and (cwd := unquote(OmegaConf.select(config, "job.cwd") or "")) and Path(cwd).is_dir():
        # Ray and Slurm start their processes anywhere.
        os.chdir(cwd)
        sys.path.append(cwd)
    try:
        values = resolve_config(config)
        if "overrides" in kind.model_fields:
            values["overrides"] = list(HydraConfig.get().overrides.task)
        settings = check_config(kind, values)
        if not values.get("resume"):  # a resumed run has a folder already
            require_empty(folder)
        if isinstance(settings, RunConfig) and not in_sweep:  # a sweep has looked at all its jobs together
            settings.require_effect(settings.overrides)
        with _log_output(folder) if in_sweep else nullcontext():
            require_device(settings)
            if settings.headline:
                print(wrap_text(settings.headline), flush=True)
            with show_start():
                module, _, name = function.rpartition(".")
                if module not in sys.modules:
                    with pause_garbage_collection():
                        import_module(module)
                return getattr(sys.modules[module], name)(settings, values, folder)
    except (UserError, OmegaConfBaseException, OSError) as error:
        if in_sweep and (sentence := explain_exception(error)):
            raise UserError(sentence) from error
        _exit_with_error(error)  # here, because Hydra would print a line of its own above the sentence
    finally:
        with suppress(OSError):  # Hydra has made the folder; it goes if nothing was written into it
            folder.rmdir()


def require_device(settings: Settings) -> None:
    """Check that the device exists, before anything is announced. Only torch knows.

    Raises:
        UserError: It does not exist.
    """
    device = getattr(settings, "device", None)
    if device is not None and device.name in ("cuda", "mps"):
        with show_start(), pause_garbage_collection():
            import_module("lenetexp.training.setup").pick_device(device)


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Import modules without the garbage collector, which takes a quarter of the time and frees nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def show_start() -> Iterator[None]:
    """Show "starting …" in a terminal until the body writes its first line."""
    if not sys.stdout.isatty():
        yield
        return
    with redirect_stdout(_Starting(sys.stdout)) as terminal:
        try:
            yield
        finally:
            terminal.write("")


class _Starting:
    """A terminal with a line that disappears when anything is written."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal, self.shows = terminal, True
        print("starting …", end="\r", file=terminal, flush=True)

    def write(self, text: str) -> int:
        if self.shows:
            self.shows = False
            self.terminal.write("\x1b[K")  # clears what is right of the cursor
        return self.terminal.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


def require_empty(folder: Path) -> None:
    """Check that a folder holds no files except the command's own log.

    Raises:
        UserError: It does; they would be overwritten.
    """
    if any(path.name != LOG for path in folder.iterdir()):
        raise UserError(f"hydra.run.dir={folder}: must be a new or an empty folder; this one holds files")


def resolve_config(config: DictConfig) -> dict[str, Any]:
    """Convert the composed config to plain dicts and lists, with interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return values  # type: ignore[return-value]


@contextmanager
def _log_output(folder: Path) -> Iterator[None]:
    """Log a job's output, and turn every exception into a `UserError`, which can be passed between processes."""
    with (folder / LOG).open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            yield
        except UserError as error:
            print(f"error: {error}")
            if is_debugging():
                print_traceback(error)
            raise
        except Exception as error:
            traceback.print_exc()
            raise UserError(f"{type(error).__name__}: {format_error(error)} (see {folder / LOG})") from None
