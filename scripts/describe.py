#!/usr/bin/env python
"""Show a net layer by layer, in numbers and as a picture: python scripts/describe.py model=lenet_5 (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import DescribeConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="describe")
def main(config: DictConfig) -> None:
    """Describe one net."""
    cli.run_task(config, DescribeConfig, "lenetexp.describe.describe")


if __name__ == "__main__":
    cli.start(main)
