"""What a command trains with: the device, the net, its optimizer and schedule, as a config names them."""

import os
import shutil
from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lenetexp.config.custom import explain_failure
from lenetexp.config.schema import SHARED_THREADS, THREAD_VARIABLES, Device, RunConfig
from lenetexp.config.targets import ClassicalModel, Target
from lenetexp.datasets.splits import Data
from lenetexp.errors import UserError, format_error, pluralize
from lenetexp.models.losses import choose_loss
from lenetexp.training.batches import derive_seed
from lenetexp.training.curvature import measure_curvature
from lenetexp.training.optimizers import DiagonalLevenbergMarquardt, build_optimizer, make_mean_update
from lenetexp.training.schedules import build_schedule
from lenetexp.training.state import Training

THREADS = torch.get_num_threads()  # torch's own choice, or that of the variables that it reads


def choose_threads(settings: Device, device: str, takes_steps: bool) -> int:
    """Choose the number of CPU threads from the settings and the environment, never from the machine's load.

    Another number of threads rounds sums differently, and the same run must give the same weights.

    Args:
        settings: The device's settings.
        device: "cpu", "cuda" or "mps".
        takes_steps: Whether the model is trained in steps, not fitted in closed form.
    """
    if settings.threads != "auto":
        return settings.threads or THREADS
    # A step of a small net is short: threads that wait for each other at every layer cost more than they bring as soon
    # as another program runs (docs/benchmark.md).
    is_users_choice = any(name in os.environ for name in THREAD_VARIABLES) and SHARED_THREADS not in os.environ
    return 1 if device == "cpu" and takes_steps and not is_users_choice else THREADS


def pick_device(settings: Device, takes_steps: bool = True) -> torch.device:
    """Return the device that `settings` name, and set torch's threads and determinism.

    Args:
        settings: The device's settings.
        takes_steps: Whether the model is trained in steps, not fitted in closed form.

    Raises:
        UserError: The device does not exist, or device.compile needs a compiler that is missing.
    """
    exists = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, is_there in exists.items() if is_there]
    name = usable[0] if settings.name == "auto" else settings.name
    if name not in usable:
        raise UserError(f"device={name}: torch finds no such device; must be auto or {', '.join(usable)}")
    torch.set_num_threads(choose_threads(settings, name, takes_steps))
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, so that a number means the same everywhere
    if settings.deterministic:
        # Must be set before CUDA starts; the value is from torch's notes on reproducibility.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(settings.deterministic)  # imports the compiler: 1.4 s
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if settings.compile and name == "cpu" and not any(shutil.which(c) for c in compilers if c):
        raise UserError("device.compile=true: must be false without a C++ compiler (g++)")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Describe the device, for the start of a run and its record."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    if device.type == "mps":
        return "Apple GPU"
    return f"CPU, {pluralize(torch.get_num_threads(), 'thread')}"


def set_up(settings: RunConfig, data: Data, device: torch.device) -> Training:
    """Build everything that training changes, before the first step. The seed alone determines the weights.

    Raises:
        UserError: The settings do not fit each other or the data.
    """
    # A default or a recipe's size may be more than a small folder of pictures holds: then all are one batch.
    is_typed = any(word.startswith("batch_size=") for word in settings.overrides)
    takes_steps = not isinstance(settings.model, ClassicalModel)
    if is_typed and takes_steps and settings.batch_size > len(data.train):
        raise UserError(
            f"batch_size={settings.batch_size}: must be at most {len(data.train)}, the number of training images"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weights", settings.seed, 0))
        has_size = "image_size" in settings.dataset.build_call()
        model = build_net(settings.model, len(data.classes), data.image_shape, has_size)
    # Channels last is the order in which oneDNN and cuDNN compute: no reordering at every layer.
    model.to(device).to(memory_format=torch.channels_last)
    loss = build_loss(settings.loss, model, len(data.classes)).to(device)
    parameters = [*model.parameters()]
    # A classifier that is fitted at once has nothing to step, and nothing to average.
    steps = parameters or [nn.Parameter(torch.zeros(()))]
    optimizer = build_optimizer(settings.optimizer, steps, settings.device.compile)
    if settings.clip_norm is not None and isinstance(optimizer, DiagonalLevenbergMarquardt):
        raise UserError(
            f"clip_norm={settings.clip_norm:g}: must be null with {settings.optimizer.name}, whose rates are for whole "
            "gradients: with clipped ones the net hardly learns"
        )
    if parameters:
        measure_curvature(model, loss, optimizer, data.train, settings.seed, epoch=0, most=2)  # or say that it cannot
    averages = settings.ema is not None and parameters
    average = AveragedModel(model, multi_avg_fn=make_mean_update(settings.ema or 0.0)) if averages else None
    steps_per_epoch = ceil(len(data.train) / settings.batch_size)
    return Training(
        model=model,
        loss=loss,
        optimizer=optimizer,
        schedule=build_schedule(settings.scheduler, optimizer, steps_per_epoch, settings.epochs),
        # Gradients in fp16 would vanish without a scale; other precisions need none.
        scaler=torch.amp.GradScaler(device.type, enabled=settings.device.precision == "fp16"),
        forward=_make_forward(model, settings, device),
        average=average,
    )


def build_net(
    settings: Target, classes: int, image_shape: tuple[int, int, int], has_size: bool = False
) -> nn.Module:  # fmt: skip
    """Build the net on the CPU and try it on two images.

    Args:
        settings: The class and its arguments; a custom class also takes `classes` and `channels`.
        classes: Number of classes.
        image_shape: Channels, height and width.
        has_size: Whether dataset.image_size can change the images, for the advice in messages.

    Raises:
        UserError: The net does not accept the images or returns another shape than N×classes.
    """
    model = settings.instantiate("model", nn.Module, classes=classes, channels=image_shape[0])
    size = "×".join(map(str, image_shape))
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(2, *image_shape)).shape)
    except Exception as error:
        if reason := explain_failure(error, settings.target):
            advice = "; dataset.image_size sets the images' size" if has_size else ""
            raise UserError(f"model: {settings.name} failed on two {size} images: {reason}{advice}") from error
        advice = " (dataset.image_size=28)" if has_size else ""
        reason = format_error(error)[:120]
        raise UserError(
            f"model: {settings.name} does not take {size} images ({reason}); lenet takes 28×28{advice}"
        ) from error
    if shape != (2, classes):
        raise UserError(f"model: {settings.name} must return 2×{classes} logits for two {size} images, not {shape}")
    return model.train()


def build_loss(settings: Target, model: nn.Module, classes: int) -> nn.Module:
    """Build the loss on the CPU and try it.

    Raises:
        UserError: It is none for this number of classes, or it has weights of its own.
    """
    loss = settings.instantiate("loss", nn.Module)
    if [*loss.parameters()]:
        raise UserError(f"loss: {settings.name} has weights of its own, which nothing would train; must have none")
    for mode in (True, False):
        try:
            value = loss.train(mode)(torch.zeros(2, classes), torch.tensor([0, classes - 1]))
            mistake = None if value.shape == () else f"it returned {tuple(value.shape)}"
        except Exception as error:
            if reason := explain_failure(error, settings.target):
                raise UserError(f"loss: {settings.name} failed on 2×{classes} outputs: {reason}") from error
            mistake = format_error(error)[:120]
        if mistake:
            raise UserError(
                f"loss: {settings.name} must make one number of 2×{classes} outputs and two class numbers ({mistake})"
            )
    return choose_loss(model, loss)


def _make_forward(model: nn.Module, settings: RunConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the model as training calls it: itself, compiled, or under autocast. It returns fp32 logits."""
    forward: Callable[[Tensor], Tensor] = torch.compile(model) if settings.device.compile else model
    if settings.device.precision == "fp32":
        return forward
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[settings.device.precision]
    return torch.autocast(device.type, dtype)(lambda images: forward(images).float())
