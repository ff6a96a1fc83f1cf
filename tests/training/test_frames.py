"""The frames of a run's animation: few however long the run, and enough to draw what the layer computed."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from helpers import PlainLeNet
from lenetexp.training.frames import MOST_FRAMES, Frames, add_frame, compute_kernels_and_maps


def test_never_too_many_spread_evenly_from_before_the_first_epoch_to_the_newest() -> None:
    frames: Frames = {}
    for epoch in range(500):
        frames = add_frame(frames, epoch, nn.Conv2d(1, 2, 3))
        *evenly, newest = frames
        assert newest == epoch and len(frames) <= MOST_FRAMES and (epoch >= MOST_FRAMES or len(frames) == epoch + 1)
        if len(evenly) > 1:
            assert evenly[0] == 0
            (step,) = {later - earlier for earlier, later in pairwise(evenly)}
            assert newest - evenly[-1] <= step and (newest <= MOST_FRAMES or newest / step >= MOST_FRAMES / 2 - 1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, 5, padding=2),
        nn.Conv2d(3, 12, 3, stride=2, dilation=2, padding="valid", bias=False),
        nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect").to(memory_format=torch.channels_last),
    ],
)
def test_a_frame_gives_the_kernels_and_what_the_layer_gave(layer: nn.Conv2d) -> None:
    image = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    frames = add_frame({}, 0, layer)
    then = layer.weight.detach().clone(), layer(image[None] / 255)[0].detach()
    with torch.no_grad():
        layer.weight.mul_(-3)
    kernels, maps = compute_kernels_and_maps(layer, add_frame(frames, 1, layer), image)
    now = layer.weight.detach(), layer(image[None] / 255)[0].detach()
    assert len(kernels) == len(maps) == 2
    for number, (weight, response) in enumerate((then, now)):
        torch.testing.assert_close(kernels[number], weight[:8].mean(1), rtol=0.01, atol=0.01)
        torch.testing.assert_close(maps[number], response[:8], rtol=0.01, atol=0.05)


def test_the_state_is_small_and_what_cannot_be_drawn_is_not_kept() -> None:
    frame = add_frame({}, 0, PlainLeNet())[0]
    assert frame.nbytes == 2 * 156, "c1's parameters in two bytes each"
    assert add_frame({}, 0, nn.Conv2d(3, 64, 7))[0].shape == (8, 148)
    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
    for model in (nn.Linear(4, 2), nn.Conv2d(4, 4, 3, groups=4), parametrized):
        assert add_frame({}, 0, model) == {}
