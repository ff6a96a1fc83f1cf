#!/usr/bin/env python
"""Find the learning rates at which a recipe learns: python scripts/find_lr.py model.activation=tanh (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import FindLrConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="find_lr")
def main(config: DictConfig) -> None:
    """Run one range test."""
    cli.run_task(config, FindLrConfig, "lenetexp.find_lr.find_lr")


if __name__ == "__main__":
    cli.start(main)
