"""The net, optimizer, schedule and precision that the settings ask for."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor, nn

from lenetexp.config.schema import RunConfig
from lenetexp.datasets.load import Data
from lenetexp.models.build import build
from lenetexp.optim.build import build_optimizer, build_schedule
from lenetexp.training.batches import seed_of
from lenetexp.training.state import Training


def set_up(settings: RunConfig, data: Data, device: torch.device) -> Training:
    """Everything that learns, on the device, before the first step; the seed alone decides the weights.

    Raises `UserError` if a class refuses its settings, or the net does not take these images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("weights", settings.seed, 0))
        model = build(settings.model, len(data.classes), data.image_shape)
    # Channels last is the order in which oneDNN and cuDNN compute: no reordering at every layer.
    model.to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(settings.optimizer, model.parameters())
    steps_per_epoch = ceil(len(data.train) / settings.batch_size)
    return Training(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(settings.scheduler, optimizer, steps_per_epoch, settings.epochs),
        # Gradients in fp16 would vanish without a scale; other precisions need none.
        scaler=torch.amp.GradScaler(device.type, enabled=settings.device.precision == "fp16"),
        forward=_forward(model, settings, device),
    )


def _forward(model: nn.Module, settings: RunConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model as training calls it: itself, compiled, or under autocast; returns fp32 logits."""
    forward: Callable[[Tensor], Tensor] = torch.compile(model) if settings.device.compile else model
    if settings.device.precision == "fp32":
        return forward
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[settings.device.precision]

    def lower_precision(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype):
            return forward(images).float()

    return lower_precision
