"""Small trainings for tests: LeNet with SGD on easy images."""

from typing import Any

import torch
from torch import Tensor, nn

from lenetexp.datasets.splits import Data
from lenetexp.models.lenet import LeNet
from lenetexp.models.losses import CrossEntropy
from lenetexp.training.loop import Recipe, fit
from lenetexp.training.schedules import Schedule
from lenetexp.training.state import EpochRecord, Training


def make_training(model: nn.Module | None = None, lr: float = 0.05, momentum: float = 0.9, seed: int = 0) -> Training:
    """Of `model`, or of a LeNet with the weights of `seed`; the learning rate is halved every second epoch."""
    torch.manual_seed(seed)
    model = model or LeNet(activation="relu")
    parameters = [*model.parameters()] or [nn.Parameter(torch.zeros(()))]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum)
    schedule = Schedule(torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5), "epoch")
    return Training(
        model, CrossEntropy(), optimizer, schedule, torch.amp.GradScaler("cpu", enabled=False), forward=model
    )


def train(training: Training, data: Data, **options: Any) -> list[EpochRecord]:
    """The records of three epochs, or as `options` say."""
    return list(fit(training, data, Recipe(**{"epochs": 3, "batch_size": 16, "seed": 0, **options})))


def weights(training: Training) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in training.model.state_dict().items()}
