"""What a run's artifacts say about it: pictures, recipe, data, code, machine, and the commands that repeat it."""

import json
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lenetexp.config.identity import RECORDING_KEYS, flatten_settings
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.errors import UserError
from lenetexp.reporting.report_page import LARGEST, Picture
from lenetexp.runs.trust import read_config
from lenetexp.tracking.names import BEST_ACCURACY, File, Tag
from lenetexp.tracking.query import RecordedRun


@dataclass(frozen=True)
class RunFiles:
    """The content of a run's artifacts. What is missing or damaged is empty: a store may hold anything."""

    run: RecordedRun

    def read_file(self, path: str) -> bytes:
        with suppress(UserError, OSError), self.run.open_files(path) as folder:
            return (folder / path).read_bytes()
        return b""

    def read_text(self, path: str) -> str:
        return self.read_file(path).decode(errors="replace").strip()

    def read_picture(self, name: str, caption: str) -> list[Picture]:
        """Read one of its figures. Return nothing if there is none of this name, or if it is too large for a page."""
        png = self.read_file(f"{File.FIGURES}/{name}.png")
        return [Picture(caption, png)] if 0 < len(png) <= LARGEST else []

    @cached_property
    def config(self) -> dict[str, Any]:
        with suppress(UserError):
            return read_config(self.read_text(File.CONFIG), self.run.run_id)
        return {}

    @cached_property
    def dataset(self) -> dict[str, Any]:
        with suppress(ValueError, RecursionError):
            facts = json.loads(self.read_text(File.DATASET))
            return facts if isinstance(facts, dict) else {}
        return {}

    @property
    def swept(self) -> dict[str, str]:
        """The keys that its sweep varies, with its values as they were typed."""
        tags = self.run.tags.items()
        return {key.removeprefix(Tag.SWEPT): value for key, value in tags if key.startswith(Tag.SWEPT)}

    @property
    def summary(self) -> str:
        """The net and how it is trained, in words."""
        with suppress(UserError):
            return check_config(RunConfig, {**self.config, "resume": False, "trust": []}).summary
        return self.run.name

    @property
    def recipe(self) -> list[tuple[str, str]]:
        flat = flatten_settings({key: value for key, value in self.config.items() if key not in RECORDING_KEYS})
        words = {None: "null", True: "true", False: "false"}
        return [(key, words[value] if value is None or isinstance(value, bool) else str(value)) for key, value in flat]

    @property
    def origin(self) -> list[tuple[str, str]]:
        """The data, the code, the machine, and MLflow's experiment."""
        tags, facts = self.run.tags, self.dataset
        experiment = next((text for key, text in flatten_settings(self.config) if key == "tracking.experiment"), "")
        counts = facts["images"] if isinstance(facts.get("images"), dict) else {}
        images = ", ".join(f"{count} {split}" for split, count in counts.items())
        parts = (facts.get("name"), facts.get("digest") and f"digest {facts['digest']}", images and f"{images} images")
        data = ", ".join(str(part) for part in parts if part)
        changed = " with uncommitted changes" if self.read_file(f"{File.REPRODUCE}/uncommitted.diff").strip() else ""
        commit = f"{tags[Tag.COMMIT]}{changed}" if Tag.COMMIT in tags else ""
        machine = ", ".join(tags[key] for key in (Tag.HOST, Tag.DEVICE) if key in tags)
        values = (("experiment", str(experiment)), ("data", data), ("commit", commit), ("machine", machine))
        return [pair for pair in values if pair[1]]

    def list_commands(self, of_sweep: str) -> list[tuple[str, str]]:
        """List the commands that repeat it and that use it. `of_sweep` labels a sweep's command."""
        commands, predict = self.read_text(f"{File.REPRODUCE}/command.txt"), []
        if BEST_ACCURACY in self.run.metrics:
            predict = [("predictions of its net", f"python scripts/predict.py run={self.run.run_id}")]
        first = re.sub(r"^python \S*/scripts/", "python scripts/", commands.partition("\n")[0])
        first = re.sub(r" resume=(true|false)(?= |$)", "", first)  # it would find its own runs
        if not self.swept:
            return [("the run again", first), *predict] if first else predict
        alone = format_single_command(first, self.swept)
        options = [(of_sweep, first), (f"only {self.run.name}", alone), *predict]
        return [pair for pair in options if pair[1]]


def format_single_command(command: str, swept: Mapping[str, str]) -> str:
    """Format the command line that runs one job of a sweep's `command`. Return "" if that cannot be read."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    settings = {word.partition("=")[0].lstrip("+"): word.partition("=")[0] for word in words}
    others = [word for word in words if word.partition("=")[0].lstrip("+") not in swept]
    overrides = [word for word in others if not word.startswith(("-m", "--multirun", "sweep=", "hydra", "resume="))]
    return (
        shlex.join([*overrides, *(f"{settings.get(key, key)}={value}" for key, value in swept.items())])
        if overrides
        else ""
    )
