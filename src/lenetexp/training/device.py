"""From device=auto to a torch.device that exists, set up for the process."""

import os
import shutil

import torch

from lenetexp.config.schema import Device
from lenetexp.errors import UserError

THREADS = torch.get_num_threads()  # torch's own choice, or that of OMP_NUM_THREADS


def pick(settings: Device) -> torch.device:
    """The device that `settings` name, with torch's threads and determinism set; `UserError` if there is none."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, exists in found.items() if exists]
    name = usable[0] if settings.name == "auto" else settings.name
    if name not in usable:
        raise UserError(f"device={name}: torch finds no such device; must be auto or {', '.join(usable)}")
    torch.set_num_threads(settings.threads or THREADS)
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


def describe(device: torch.device) -> str:
    """The device in words, for the start of a run and its record."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
