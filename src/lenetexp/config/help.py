"""What --help and tab completion tell of the settings: the comments of conf/, the words that a setting may be."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.plugins.completion_plugin import CompletionPlugin
from omegaconf import Container, DictConfig, OmegaConf
from pydantic import ValidationError

from lenetexp.config.commands import PredictConfig
from lenetexp.config.identity import leaves
from lenetexp.config.schema import RunConfig
from lenetexp.errors import wrapped

COMMENT = re.compile(r"^ *(\w+):.* # (.+)$", re.MULTILINE)
WIDTH = 34  # of key and value


def explained(config: DictConfig, typed: Mapping[str, str]) -> str:
    """Every setting as one types it, with the comment of its line in conf/; `typed` are keys with other names."""
    runtime = config.hydra.runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    lines = []
    for key, value in leaves(_plain(config)):
        group, dot, name = key.partition(".")
        if dot:  # its file comes first; it may begin with another one of the group
            files = [path for folder in folders for path in sorted(folder.glob(f"{group}/*.yaml"))]
            files.sort(key=lambda path: path.stem != runtime.choices.get(group))
        else:
            files = [folder / f"{config.hydra.job.config_name}.yaml" for folder in folders]
        comments = (dict(COMMENT.findall(path.read_text())).get(name or key) for path in files if path.exists())
        if name != "_target_":
            start = f"  {typed.get(key, key)}={_as_typed(value)}"
            comment = next(filter(None, comments), "")
            if not comment or len(start) > WIDTH:
                lines.append(start)
                start = ""
            if comment:
                lines.append(wrapped(comment, first=f"{start:<{WIDTH}}  ", others=" " * (WIDTH + 2)))
    return "\n".join(lines).replace("$", "$$")  # for Hydra, which fills in a template


def choices(key: str, values: Mapping[str, Any]) -> list[str]:
    """The words that a setting of such a config may be, if it is one of few words: what is said of a wrong one."""
    *groups, name = key.split(".")
    values = inner = dict(values)
    for group in groups:
        if not isinstance(inner.get(group), Mapping):
            return []
        inner[group] = inner = dict(inner[group])
    inner[name] = object()
    for kind in (RunConfig, PredictConfig):
        try:
            kind.model_validate(values)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                if ".".join(map(str, problem["loc"])) == key and problem["type"] in ("bool_type", "literal_error"):
                    expected = problem.get("ctx", {}).get("expected", "true or false")
                    return [word.strip("'").lower() for word in re.split(", | or ", expected)]
    return []


def complete_values() -> None:
    """Has Hydra's tab completion, which knows groups and keys, offer the words that a setting may be as well."""
    matches = CompletionPlugin._get_matches

    def with_values(config: Container, word: str) -> list[str]:
        key, equals, begun = word.partition("=")
        words = choices(key, _plain(config)) if equals and isinstance(config, DictConfig) else []
        return [f"{key}={option}" for option in words if option.startswith(begun)] or matches(config, word)

    CompletionPlugin._get_matches = staticmethod(with_values)  # type: ignore[method-assign]


def list_groups_quickly() -> None:
    """Has Hydra's --help list groups from the folders: it copies its whole repository for each, which takes 0.5 s."""

    def options(self: ConfigLoaderImpl, group_name: str, results_filter: ObjectType | None = None) -> list[str]:
        found = self.repository.get_group_options(group_name, results_filter)
        return [name for name in found if not name.startswith("_")]  # what other files begin with is no choice

    ConfigLoaderImpl.get_group_options = options  # type: ignore[assignment,method-assign]


def _plain(config: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=False)
    return {str(key): value for key, value in values.items() if key != "hydra"}  # type: ignore[union-attr]


def _as_typed(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
