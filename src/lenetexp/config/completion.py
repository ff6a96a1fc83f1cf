"""Tab completion: the groups, settings and values that can follow on a command line."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.completion_plugin import CompletionPlugin
from hydra.types import RunMode
from omegaconf import DictConfig
from pydantic import ValidationError

from lenetexp.config.command_line import SPECIAL_WORDS, list_options
from lenetexp.config.commands import FindLrConfig, OtherCommand
from lenetexp.config.help import UNTYPED, convert_to_plain
from lenetexp.config.identity import flatten_settings
from lenetexp.config.schema import RunConfig
from lenetexp.config.targets import Settings

FLAGS = ("--help", "--version", "--cfg", "--config-dir", "--hydra-help", "--multirun")
PATHS = ("root", "data_dir", "images", "to", "keep", "folder")  # settings that are files or folders

# One function for all scripts, however they are called. Of any other, Tab completes the names of files.
BASH = """\
_lenetexp() {{
    local line=${{COMP_LINE:0:COMP_POINT}} IFS=$' \\t\\n' python=python
    local words=($line)
    [[ ${{words[0]##*/}} == python* ]] && python=${{words[0]}} words=("${{words[@]:1}}")
    COMPREPLY=()
    [[ $line == *"${{words[0]}}"[[:space:]]* ]] && grep -qs 'from lenetexp import cli' "${{words[0]}}" || return
    local word=${{line##*[[:space:]]}} breaks=${{COMP_WORDBREAKS//[^=:]/}} start=
    [[ $breaks ]] && start=${{word%"${{word##*[$breaks]}}"}}  # bash completes what follows the last of these
    COMPREPLY=($(COMP_LINE=$line "$python" "${{words[0]}}" -sc query=bash 2>/dev/null))
    COMPREPLY=("${{COMPREPLY[@]#"$start"}}")
    [[ ${{COMPREPLY[0]}} == *[=./] ]] && compopt -o nospace
}}
complete -o default -F _lenetexp python python3 {scripts}"""

BASH_OFF = "complete -r python python3 {scripts}; unset -f _lenetexp"


def format_bash_script(folder: Path, install: bool) -> str:
    """Format the script that bash evaluates to turn completion on or off.

    Args:
        folder: Where the commands' scripts are.
        install: Whether to turn it on.
    """
    scripts = sorted(path.name for path in folder.glob("*.py") if "from lenetexp import cli" in path.read_text())
    return (BASH if install else BASH_OFF).format(scripts=" ".join(scripts))


def complete_words(aliases: Mapping[str, str]) -> None:
    """Make Hydra's completion, which every shell's plugin calls, offer what `list_matches` yields.

    Args:
        aliases: The config's key for each key that is typed under another name.
    """

    def query(self: CompletionPlugin, config_name: str | None, line: str) -> list[str]:
        words = line.split()
        word = words.pop() if words and not line[-1].isspace() else ""
        sys.argv[1:] = words
        pairs = [word.partition("=") for word in words if "=" in word]
        overrides = [f"{aliases.get(key, key)}={value}" for key, _, value in pairs]
        config = _compose(self.config_loader, config_name, overrides)
        return sorted({match for match in list_matches(config, word, aliases) if match.startswith(word)})

    CompletionPlugin._query = query  # type: ignore[method-assign]
    CompletionPlugin.strip_python_or_app_name = staticmethod(_strip_command)  # type: ignore[method-assign]


def _strip_command(line: str) -> str:
    """Return the part of a command line after the script's name."""
    return re.sub(r"^.*?\.py(\s+|$)", "", line, count=1)


def _compose(loader: ConfigLoader, name: str | None, overrides: list[str]) -> DictConfig:
    """Compose the config with these overrides, or without them if they are wrong."""
    with suppress(Exception):
        return loader.load_configuration(name, overrides, RunMode.MULTIRUN)
    return loader.load_configuration(name, [], RunMode.MULTIRUN)


def list_matches(config: DictConfig, word: str, aliases: Mapping[str, str] = {}) -> Iterator[str]:
    """Yield the completions of the word that is being typed, one part at a time: `model.` before `model.activation=`.

    Args:
        config: The composed config.
        word: The word so far.
        aliases: The config's key for each key that is typed under another name.
    """
    groups = [group for group in config.hydra.runtime.choices if not group.startswith("hydra/") and group != "local"]
    if "experiment" in groups:
        groups += ["hydra/launcher", "hydra/sweeper"] if word.startswith("hydra") else []
    typed_as = {key: name for name, key in aliases.items()}
    values = convert_to_plain(config)
    key, equals, value = word.partition("=")
    if word.startswith("-"):
        yield from FLAGS
    elif equals:
        values_before, comma, prefix = value.rpartition(",")
        if key in groups:
            options = [_cut_next_part(option, prefix, "/") for option in list_options(key)]
        else:
            options = list(_list_values(aliases.get(key, key), values, prefix))
        yield from (f"{key}={values_before}{comma}{option}" for option in options)
    else:
        yield from (f"{group}=" for group in groups)
        settings = (setting for setting, _ in flatten_settings(values) if setting.rpartition(".")[2] not in UNTYPED)
        yield from (_cut_next_part(f"{typed_as.get(setting, setting)}=", word, ".") for setting in settings)


def _cut_next_part(whole: str, prefix: str, separator: str) -> str:
    """Return `whole` up to the first separator after `prefix`."""
    head, end, _ = whole[len(prefix) :].partition(separator)
    return f"{whole[: len(prefix)]}{head}{end}" if whole.startswith(prefix) else whole


def _list_values(key: str, config: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield the values that a setting may have: its choices, files if it is a path, its present value."""
    name = key.rpartition(".")[2]
    yield from SPECIAL_WORDS.get(key, ())
    yield from list_choices(key, config)
    if name in PATHS or prefix.startswith((".", "/", "~")):
        yield from _list_files(prefix)
    present = dict(flatten_settings(config)).get(key)
    if isinstance(present, int | float | str) and not isinstance(present, bool) and "${" not in str(present):
        yield str(present)


def _list_files(prefix: str) -> Iterator[str]:
    """Yield the files and folders that a path may become, except names that need quotes."""
    folder, slash, _ = prefix.rpartition("/")
    with suppress(OSError):
        for entry in os.scandir(Path(f"{folder}{slash}" or ".").expanduser()):
            if re.fullmatch(r"[\w.+@%-]+", entry.name) and not entry.name.startswith("."):
                yield f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}"


def list_choices(key: str, config: Mapping[str, Any]) -> list[str]:
    """List the values of a setting that allows only a few words. Return [] for any other setting.

    The words come from pydantic's error for a wrong value.
    """
    *groups, name = key.split(".")
    values = inner = dict(config)
    for group in groups:
        if not isinstance(inner.get(group), Mapping):
            return []
        inner[group] = inner = dict(inner[group])
    inner[name] = object()
    kinds: list[type[Settings]] = [RunConfig, FindLrConfig, *OtherCommand.__subclasses__()]
    for kind in kinds:
        try:
            kind.model_validate(values)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                if ".".join(map(str, problem["loc"])) == key and problem["type"] in ("bool_type", "literal_error"):
                    expected = problem.get("ctx", {}).get("expected", "true or false")
                    return [word.strip("'").lower() for word in re.split(", | or ", expected)]
    return []
