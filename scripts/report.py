#!/usr/bin/env python
"""Write a page to share, of a sweep or of one run: python scripts/report.py sweep=latest (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import ReportConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(config: DictConfig) -> None:
    """Write one report."""
    cli.run_task(config, ReportConfig, "lenetexp.sweeps.report.report")


if __name__ == "__main__":
    # A folder of conf/ has that name, too: Hydra would take sweep=… for a choice from it.
    cli.start(main, aliases={"sweep": "which"})
