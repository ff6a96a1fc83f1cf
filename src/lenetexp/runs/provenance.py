"""What is needed to repeat a run: its config, its command line, the state of the code, the packages."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lenetexp.config.identity import INVOCATION_KEYS
from lenetexp.errors import UserError, format_error, mask_password
from lenetexp.tracking.names import File

PROJECT = Path(__file__).resolve().parents[3]


def write_provenance(folder: Path, config: Mapping[str, Any], dataset: Mapping[str, Any]) -> str | None:
    """Write config.yaml, dataset.json and reproduce/. `config` must hold no secrets.

    Returns:
        The commit, if there is one.
    """
    reproduce = folder / File.REPRODUCE
    reproduce.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(dict(config)), folder / File.CONFIG)
    (folder / File.DATASET).write_text(json.dumps(dataset, indent=1, ensure_ascii=False))
    (reproduce / "command.txt").write_text(f"{_format_command()}\n")
    (reproduce / "packages.txt").write_text(_list_packages())
    if commit := _read_git_state("rev-parse", "HEAD"):
        (reproduce / "commit.txt").write_text(commit)
        (reproduce / "uncommitted.diff").write_text(mask_password(_read_git_state("diff", "HEAD")))
        (reproduce / "untracked.txt").write_text(_read_git_state("ls-files", "--others", "--exclude-standard"))
    return commit.strip() or None


def clean_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config without how the command was typed, and without a password in the store's address."""
    values = {key: value for key, value in config.items() if key not in INVOCATION_KEYS}
    return {**values, "tracking": {**values["tracking"], "uri": mask_password(values["tracking"]["uri"], whole=True)}}


def read_dataset(folder: Path) -> dict[str, Any] | None:
    """Read what `write_provenance` wrote about the images. Return None if the run was killed before.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / File.DATASET
    try:
        facts = json.loads(path.read_text())
        return {**facts, "digest": str(facts["digest"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({format_error(error)[:80]})") from None


def describe_root(root: str | None, folder: Path) -> dict[str, str | None]:
    """Describe where a dataset lies: absolute, and from the run's folder, as both may be moved together."""
    if root is None:
        return {"root": None}
    place = Path(root).expanduser().resolve()
    with suppress(ValueError):  # another drive
        return {"root": str(place), "root_from_run": os.path.relpath(place, folder.resolve())}
    return {"root": str(place)}


def find_root(root: str | None, root_from_run: str | None, folder: Path | None) -> str | None:
    """Return where the dataset that `describe_root` described lies now, if the run's folder is here."""
    if folder is not None and root_from_run is not None and (place := (folder / root_from_run).resolve()).exists():
        return str(place)
    return root


def write_resume_command(folder: Path) -> None:
    """Write down the command that resumes the run, and print if other packages are installed than before."""
    reproduce = folder / File.REPRODUCE
    with (reproduce / "command.txt").open("a") as file:
        file.write(f"{_format_command()}\n")
    before = reproduce / "packages.txt"
    new = {*_list_packages().splitlines()} - {*before.read_text().splitlines()} if before.exists() else ()
    if new:
        others = ", ".join(sorted(new)[:5])
        print(f"note: other packages than before ({others} …): the result may differ in its last digits")


def format_resume_command(run_id: str | None) -> str:
    """Format the command line that resumes this command's run."""
    words = [word for word in sys.argv if not word.startswith("resume=")]
    return _format_command([*words, f"resume={run_id or 'true'}"])


def get_command_words() -> list[str]:
    """Return the words of this command line, for `shlex.join`, without passwords."""
    return [mask_password(word, whole=True) for word in sys.argv]


def _format_command(words: Sequence[str] | None = None) -> str:
    return shlex.join(["python", *(mask_password(word, whole=True) for word in words or sys.argv)])


@cache
def _list_packages() -> str:
    """List the installed packages, one line each, as pip reads them."""
    packages = {f"{d.metadata['Name']}=={d.version}" for d in distributions()}
    return "\n".join([f"# Python {sys.version.split()[0]}", *sorted(packages, key=str.lower), ""])


@cache  # the code that a process has imported does not change later
def _read_git_state(*command: str) -> str:
    """Return git's output for lenetexp's own checkout; "" if there is no git or no checkout."""
    if not (PROJECT / ".git").exists():
        return ""
    try:
        result = subprocess.run(["git", "-C", str(PROJECT), *command], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.decode(errors="replace")
