#!/usr/bin/env python
"""Predict with a net that run.py trained: python scripts/predict.py run=latest (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli
from lenetexp.config.commands import PredictConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(config: DictConfig) -> None:
    """Print the predictions and write a picture of them."""
    cli.run_task(config, PredictConfig, "lenetexp.predict.run")


if __name__ == "__main__":
    cli.start(main)
