"""The text of --help: every setting with its comment from conf/, and the names of the other commands."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from lenetexp.config.command_line import list_options
from lenetexp.config.identity import flatten_settings
from lenetexp.errors import wrap_text

COMMENT = re.compile(r"^ *(\w+):.* # (.+)$", re.MULTILINE)
WIDTH = 34  # of key and value
# What is typed most comes first, then what belongs to no group.
FIRST = (
    "run", "images", "from_lr", "to_lr", "steps", "optimizer.lr", "model.activation", "epochs", "batch_size", "seed"
)  # fmt: skip
GROUPS = ("", "model", "optimizer", "scheduler", "loss", "dataset", "device")  # others follow
UNTYPED = ("_target_", "job", "overrides")  # settings that nobody types


def format_settings(config: DictConfig, aliases: Mapping[str, str]) -> str:
    """Format every setting as one types it, with the comment of its line in conf/.

    Args:
        config: The composed config.
        aliases: The config's key for each key that is typed under another name.
    """
    runtime = config.hydra.runtime
    typed_as = {key: name for name, key in aliases.items()}
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    lines = []
    for key, value in sorted(flatten_settings(convert_to_plain(config)), key=_rank_setting):
        group, dot, name = key.partition(".")
        if dot:  # its file comes first; it may begin with another one of the group
            files = [path for folder in folders for path in sorted(folder.glob(f"{group}/*.yaml"))]
            files.sort(key=lambda path: path.stem != runtime.choices.get(group))
        else:
            files = [folder / f"{config.hydra.job.config_name}.yaml" for folder in folders]
            files += [folder / "config.yaml" for folder in folders]  # which find_lr.yaml begins with
        comments = (dict(COMMENT.findall(path.read_text())).get(name or key) for path in files if path.exists())
        if name != "_target_":
            start = f"  {typed_as.get(key, key)}={_format_value(value)}"
            comment = next(filter(None, comments), "")
            if not comment or len(start) > WIDTH:
                lines.append(start)
                start = ""
            if comment:
                lines.append(wrap_text(comment, first=f"{start:<{WIDTH}}  ", others=" " * (WIDTH + 2)))
    return "\n".join(lines).replace("$", "$$")  # for Hydra, which fills in a template


def format_other_commands() -> str:
    """Format one line that names the other commands. Each has a file in conf/hydra/help/."""
    names = {"run" if name == "lenetexp" else name for name in list_options("hydra/help")} - {Path(sys.argv[0]).stem}
    return wrap_text(f"Other commands: {', '.join(sorted(names))} (python scripts/NAME.py --help)")


def list_groups_quickly() -> None:
    """Make Hydra's --help list groups from the folders. By itself it copies its repository for each, 0.5 s in all."""

    def options(self: ConfigLoaderImpl, group_name: str, results_filter: ObjectType | None = None) -> list[str]:
        options = self.repository.get_group_options(group_name, results_filter)
        return [name for name in options if not name.startswith("_")]  # what other files begin with is no choice

    ConfigLoaderImpl.get_group_options = options  # type: ignore[assignment,method-assign]


def convert_to_plain(config: DictConfig) -> dict[str, Any]:
    """Convert a config to plain dicts and lists, leaving interpolations as they are written."""
    values = OmegaConf.to_container(config, resolve=False)
    return {str(key): value for key, value in values.items() if key != "hydra"}  # type: ignore[union-attr]


def _rank_setting(setting: tuple[str, Any]) -> tuple[int, int]:
    """Return the sort key of a setting; settings with equal keys keep their order."""
    key, _ = setting
    group = key.rpartition(".")[0].partition(".")[0]
    first = FIRST.index(key) if key in FIRST else len(FIRST)
    return first, GROUPS.index(group) if group in GROUPS else len(GROUPS)


def _format_value(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
