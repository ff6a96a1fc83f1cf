"""Trains one net, or with -m a sweep: python scripts/run.py optimizer.lr=0.01 (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: DictConfig) -> float:
    """One run; returns its best validation accuracy for a sweeper."""
    from lenetexp import experiment  # torch and mlflow load only when something runs

    return cli.task(experiment.run, config)


if __name__ == "__main__":
    cli.start(main)
