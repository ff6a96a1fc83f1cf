"""What to compute on: from the config's word to a torch.device that is there."""

import os
import shutil

import torch

from lenetexp.config import Device, UserError

THREADS = torch.get_num_threads()  # what torch itself, or OMP_NUM_THREADS, chose


def pick(settings: Device) -> torch.device:
    """The device that `settings` names, ready: threads and determinism are set for the process.

    Raises:
        UserError: the device is not there, or compiling was asked for without a compiler.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name: str = settings.name
    if name == "auto":
        name = next(kind for kind, is_there in there.items() if is_there)
    elif not there[name]:
        usable = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise UserError(f"device={name}: torch finds no such device here; must be auto or {usable}")
    torch.set_num_threads(settings.threads or THREADS)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, so that a number means the same everywhere
    if settings.deterministic:
        # Must be in place before CUDA starts (the torch notes on reproducibility name this value).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(settings.deterministic)  # imports the compiler: 1.4 s
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if settings.compile and name == "cpu" and not any(shutil.which(c) for c in compilers if c):
        raise UserError("device.compile=true: must be false here, there is no C++ compiler (g++)")
    return torch.device(name)


def describe(device: torch.device) -> str:
    """The device in words, for the head of a run and its record."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
