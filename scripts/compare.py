#!/usr/bin/env python
"""Show tables and pictures of a sweep, or of any runs: python scripts/compare.py sweep=latest (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import CompareConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
def main(config: DictConfig) -> None:
    """Show one comparison."""
    cli.run_task(config, CompareConfig, "lenetexp.sweeps.compare.compare")


if __name__ == "__main__":
    # A folder of conf/ has that name, too: Hydra would take sweep=… for a choice from it.
    cli.start(main, aliases={"sweep": "which"})
