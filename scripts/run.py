#!/usr/bin/env python
"""Train one net, or with -m a sweep: python scripts/run.py optimizer.lr=0.01 (more: --help)."""

import sys

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.schema import RunConfig
from lenetexp.tracking import process


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: DictConfig) -> float:
    """Train one net. Its best validation accuracy is what a sweeper gets."""
    return cli.run_task(config, RunConfig, "lenetexp.runs.experiment.run")


if __name__ == "__main__":
    process.start(sys.argv[1:])
    cli.start(main, sweeps=True)
