#!/usr/bin/env python
"""Send to MLflow what it missed of runs: python scripts/sync.py (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import SyncConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="sync")
def main(config: DictConfig) -> None:
    """Look once through all run folders."""
    cli.run_task(config, SyncConfig, "lenetexp.tracking.outbox.sync")


if __name__ == "__main__":
    cli.start(main)
