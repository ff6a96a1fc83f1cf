#!/usr/bin/env python
"""List the runs and sweeps in the store: python scripts/runs.py (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import RunsConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="runs")
def main(config: DictConfig) -> None:
    """Print one table."""
    cli.run_task(config, RunsConfig, "lenetexp.sweeps.listing.list_runs")


if __name__ == "__main__":
    cli.start(main)
