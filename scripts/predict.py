"""Predicts with a net that run.py trained: python scripts/predict.py run=latest (more: --help)."""

import hydra
from omegaconf import DictConfig

from lenetexp import cli


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(config: DictConfig) -> None:
    """Prints the predictions and writes a picture of them."""
    from lenetexp import predict  # torch and mlflow load only when something runs

    cli.task(predict.run, config)


if __name__ == "__main__":
    cli.start(main)
