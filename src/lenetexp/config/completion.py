"""What Tab offers: the groups, settings and words that can follow on a command line."""

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

from lenetexp.config.command_line import SPECIAL_WORDS, options_of
from lenetexp.config.commands import FindLrConfig, OtherCommand
from lenetexp.config.help import UNTYPED, to_plain
from lenetexp.config.identity import leaves
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


def bash_script(folder: Path, install: bool) -> str:
    """What `eval` reads to enable Tab in bash, or to disable it, for all scripts in `folder`."""
    scripts = sorted(path.name for path in folder.glob("*.py") if "from lenetexp import cli" in path.read_text())
    return (BASH if install else BASH_OFF).format(scripts=" ".join(scripts))


def complete_words(renamed: Mapping[str, str]) -> None:
    """Has Hydra's completion, which every shell's plugin asks, offer what this module finds.

    Args:
        renamed: Keys as they are typed and as the config has them.
    """

    def query(self: CompletionPlugin, config_name: str | None, line: str) -> list[str]:
        """Answers what a shell asks with each Tab: the words that can follow on this line, sorted."""
        words = line.split()
        word = words.pop() if words and not line[-1].isspace() else ""
        sys.argv[1:] = words
        pairs = [word.partition("=") for word in words if "=" in word]
        overrides = [f"{renamed.get(key, key)}={value}" for key, _, value in pairs]
        config = _compose(self.config_loader, config_name, overrides)
        return sorted({match for match in matches(config, word, renamed) if match.startswith(word)})

    CompletionPlugin._query = query  # type: ignore[method-assign]
    CompletionPlugin.strip_python_or_app_name = staticmethod(_strip_command)  # type: ignore[method-assign]


def _strip_command(line: str) -> str:
    """What follows the script's name on a command line."""
    return re.sub(r"^.*?\.py(\s+|$)", "", line, count=1)


def _compose(loader: ConfigLoader, name: str | None, overrides: list[str]) -> DictConfig:
    """The config with these overrides; without them, if they are wrong."""
    with suppress(Exception):
        return loader.load_configuration(name, overrides, RunMode.MULTIRUN)
    return loader.load_configuration(name, [], RunMode.MULTIRUN)


def matches(config: DictConfig, word: str, renamed: Mapping[str, str] = {}) -> Iterator[str]:
    """What the word that is being typed can become, one part at a time: model. before model.activation=."""
    groups = [group for group in config.hydra.runtime.choices if not group.startswith("hydra/") and group != "local"]
    if "experiment" in groups:
        groups += ["hydra/launcher", "hydra/sweeper"] if word.startswith("hydra") else []
    typed_as = {key: name for name, key in renamed.items()}
    values = to_plain(config)
    key, equals, value = word.partition("=")
    if word.startswith("-"):
        yield from FLAGS
    elif equals:
        values_before, comma, begun = value.rpartition(",")
        if key in groups:
            options = [_next_part(option, begun, "/") for option in options_of(key)]
        else:
            options = list(_values(renamed.get(key, key), values, begun))
        yield from (f"{key}={values_before}{comma}{option}" for option in options)
    else:
        yield from (f"{group}=" for group in groups)
        settings = (setting for setting, _ in leaves(values) if setting.rpartition(".")[2] not in UNTYPED)
        yield from (_next_part(f"{typed_as.get(setting, setting)}=", word, ".") for setting in settings)


def _next_part(whole: str, begun: str, separator: str) -> str:
    """`whole` up to the first separator after what is typed of it."""
    head, found, _ = whole[len(begun) :].partition(separator)
    return f"{whole[: len(begun)]}{head}{found}" if whole.startswith(begun) else whole


def _values(key: str, config: Mapping[str, Any], begun: str) -> Iterator[str]:
    """The words that a setting may be, names of files if it is one, its present value."""
    name = key.rpartition(".")[2]
    yield from SPECIAL_WORDS.get(key, ())
    yield from choices(key, config)
    if name in PATHS or begun.startswith((".", "/", "~")):
        yield from _files(begun)
    present = dict(leaves(config)).get(key)
    if isinstance(present, int | float | str) and not isinstance(present, bool) and "${" not in str(present):
        yield str(present)


def _files(begun: str) -> Iterator[str]:
    """The files and folders that a path may become, but those whose names would need quotes."""
    folder, slash, _ = begun.rpartition("/")
    with suppress(OSError):
        for entry in os.scandir(Path(f"{folder}{slash}" or ".").expanduser()):
            if re.fullmatch(r"[\w.+@%-]+", entry.name) and not entry.name.startswith("."):
                yield f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}"


def choices(key: str, config: Mapping[str, Any]) -> list[str]:
    """The words that a setting of such a config may be, if it is one of few words: what is said of a wrong one."""
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
