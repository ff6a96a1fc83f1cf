"""The first convolution after each epoch: the frames of a run's animation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lenetexp.training.batches import convert_to_floats

MOST_FRAMES, MOST_KERNELS = 40, 8

# By epoch, 0 before the first: K×(C·h·w + 1), a row for each of the first kernels: its weights and its bias.
Frames = dict[int, Tensor]


def find_first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the first convolution of a net with its name, or None."""
    return next(((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)), None)


def add_frame(frames: Frames, epoch: int, model: nn.Module) -> Frames:
    """Return the frames with one for the newest epoch: every 2ᵏ-th and the newest, at most `MOST_FRAMES` in all.

    Which ones are kept depends on the number of epochs alone. There are none if the net has no convolution, or one in
    groups or with parametrized weights.
    """
    _, layer = find_first_convolution(model) or ("", None)
    if layer is None or layer.groups > 1 or "weight" not in dict(layer.named_parameters(recurse=False)):
        return {}
    weights = layer.weight.detach()[:MOST_KERNELS].flatten(1)
    biases = torch.zeros_like(weights[:, 0]) if layer.bias is None else layer.bias.detach()[:MOST_KERNELS]
    # bfloat16: a picture needs no more digits, and a wild net needs the range.
    newest = torch.cat([weights, biases[:, None]], 1).cpu().bfloat16()
    step = 1
    while -(-epoch // step) + 1 > MOST_FRAMES:
        step *= 2
    return {number: frame for number, frame in frames.items() if number % step == 0} | {epoch: newest}


def pack_frames(frames: Frames) -> dict[str, Any]:
    """Pack the frames for a checkpoint. One tensor takes a millisecond less to save than forty."""
    return {"epochs": list(frames), "rows": torch.stack([*frames.values()])} if frames else {}


def unpack_frames(state: Mapping[str, Any]) -> Frames:
    """Restore what `pack_frames` returned."""
    return dict(zip(state["epochs"], state["rows"], strict=True)) if state else {}


@torch.inference_mode()
def compute_kernels_and_maps(layer: nn.Conv2d, frames: Frames, image: Tensor) -> tuple[Tensor, Tensor]:
    """Compute kernels of the first convolution, and their responses to an image, for every frame.

    Args:
        layer: The convolution.
        frames: F frames.
        image: C×H×W uint8.

    Returns:
        F×K×h×w kernels as means over the channels, and F×K×H×W responses.
    """
    rows = torch.stack([*frames.values()]).to(image.device, torch.float32)
    weights = rows[..., :-1].reshape(-1, *layer.weight.shape[1:])
    biases = {} if layer.bias is None else {"bias": rows[..., -1].flatten()}
    # One convolution with the kernels of all frames.
    maps = functional_call(layer, {"weight": weights, **biases}, (convert_to_floats(image[None]),))[0]
    return tuple(each.unflatten(0, rows.shape[:2]).cpu() for each in (weights.mean(1), maps))
