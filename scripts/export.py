#!/usr/bin/env python
"""Write a trained net for other programs: python scripts/export.py run=best format=onnx (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import ExportConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
def main(config: DictConfig) -> None:
    """Write one file, and another that describes it."""
    cli.run_task(config, ExportConfig, "lenetexp.export.run")


if __name__ == "__main__":
    cli.start(main)
