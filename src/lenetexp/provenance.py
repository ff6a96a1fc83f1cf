"""What is needed to repeat a run: its config, its command line, the code's state, the packages."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lenetexp.config import UserError, one_line, without_password

PROJECT = Path(__file__).resolve().parents[2]


def write(folder: Path, config: Mapping[str, Any], dataset: Mapping[str, Any]) -> str | None:
    """Writes config.yaml, dataset.json and reproduce/ into `folder`.

    Args:
        folder: the run's folder.
        config: the composed config, without secrets.
        dataset: what a trained net must be told about its images.

    Returns:
        The commit of lenetexp's code, or None where it is not in a git checkout.
    """
    reproduce = folder / "reproduce"
    reproduce.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(dict(config)), folder / "config.yaml")
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=1, ensure_ascii=False))
    (reproduce / "command.txt").write_text(f"{_command()}\n")
    (reproduce / "packages.txt").write_text(_packages())
    commit = _git("rev-parse", "HEAD")
    if commit is not None:
        (reproduce / "commit.txt").write_text(commit)
        (reproduce / "uncommitted.diff").write_text(without_password(_git("diff", "HEAD") or ""))
        (reproduce / "untracked.txt").write_text(_git("ls-files", "--others", "--exclude-standard") or "")
    return commit.strip() if commit else None


def dataset_of(folder: Path) -> dict[str, Any] | None:
    """What `write` wrote of the images; None where it did not come to that.

    Raises:
        UserError: it is damaged.
    """
    path = folder / "dataset.json"
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text())
        facts["digest"] = str(facts["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)[:80]})") from None
    return dict(facts)


def note_command(folder: Path) -> None:
    """Adds the command by which a run is gone on with; says so where the packages are others."""
    reproduce = folder / "reproduce"
    reproduce.mkdir(exist_ok=True)
    with (reproduce / "command.txt").open("a") as file:
        file.write(f"{_command()}\n")
    packages = reproduce / "packages.txt"
    if not packages.exists() or packages.read_text() == _packages():
        return
    then, now = set(packages.read_text().splitlines()), set(_packages().splitlines())
    others = ", ".join(sorted(now - then)[:5])
    print(f"note: other packages than before ({others} …): the end may differ in its last digits")


def command_to_resume(run_id: str | None) -> str:
    """What one types to go on with this command's run."""
    words = [word for word in sys.argv if not word.startswith("resume=")]
    return without_password(shlex.join(["python", *words, f"resume={run_id or 'true'}"]))


def _command() -> str:
    return without_password(shlex.join(["python", *sys.argv]))


@cache
def _packages() -> str:
    """What is installed, a line each, as pip takes it."""
    packages = {f"{d.metadata['Name']}=={d.version}" for d in distributions()}
    header = f"# Python {sys.version.split()[0]}"
    return "\n".join([header, *sorted(packages, key=str.lower), ""])


@cache
def _git(*command: str) -> str | None:
    """What git says of lenetexp's own checkout; None where there is no git or no checkout.

    Asked once a process: what it imported is the code as it was then.
    """
    if not (PROJECT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *command], capture_output=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
