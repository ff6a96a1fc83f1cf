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

from lenetexp.config import without_password

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
    command = without_password(shlex.join(["python", *sys.argv]))
    (reproduce / "command.txt").write_text(f"{command}\n")
    (reproduce / "packages.txt").write_text(_packages())
    commit = _git("rev-parse", "HEAD")
    if commit is not None:
        (reproduce / "commit.txt").write_text(commit)
        (reproduce / "uncommitted.diff").write_text(without_password(_git("diff", "HEAD") or ""))
        (reproduce / "untracked.txt").write_text(_git("ls-files", "--others", "--exclude-standard") or "")
    return commit.strip() if commit else None


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
