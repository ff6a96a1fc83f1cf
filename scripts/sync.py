#!/usr/bin/env python
"""Sends to MLflow what it has missed of runs: python scripts/sync.py (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import SyncConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="sync")
def main(config: DictConfig) -> None:
    """One look through all run folders."""
    cli.run_task(config, SyncConfig, "lenetexp.tracking.outbox.sync")


if __name__ == "__main__":
    cli.start(main)
