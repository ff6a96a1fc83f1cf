#!/usr/bin/env python
"""Open a page to draw on, with trained nets behind it: python scripts/draw.py run=best (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import DrawConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="draw")
def main(config: DictConfig) -> None:
    """Serve the page until it is interrupted."""
    cli.run_task(config, DrawConfig, "lenetexp.inference.page.launch.run")


if __name__ == "__main__":
    cli.start(main)
