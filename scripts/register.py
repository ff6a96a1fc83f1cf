#!/usr/bin/env python
"""Register a trained net, to be served: python scripts/register.py run=best name=digits (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import RegisterConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="register")
def main(config: DictConfig) -> None:
    """Make a version in MLflow's registry and print how to use it."""
    cli.run_task(config, RegisterConfig, "lenetexp.inference.serving.registration.run")


if __name__ == "__main__":
    cli.start(main)
