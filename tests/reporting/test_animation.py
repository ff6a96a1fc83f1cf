"""learning.gif shows how the first convolution changed, on one scale, and stays small."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import make_data
from lenetexp.datasets.splits import Data, Split
from lenetexp.reporting.animation import GAP, LINE, TILE, draw_learning
from lenetexp.training.frames import MOST_FRAMES, Frames, add_frame
from lenetexp.training.state import EpochRecord
from sample_training import make_training, train


def pages(folder: Path) -> list[np.ndarray]:
    """The frames of learning.gif, each H×W×3."""
    with Image.open(folder / "learning.gif") as animation:
        found = []
        for number in range(animation.n_frames):
            animation.seek(number)
            found.append(np.asarray(animation.convert("RGB")).astype(int))
        return found


def durations(folder: Path) -> list[int]:
    with Image.open(folder / "learning.gif") as animation:
        found = []
        for number in range(animation.n_frames):
            animation.seek(number)
            found.append(animation.info["duration"])
        return found


def epochs(count: int) -> list[EpochRecord]:
    return [EpochRecord(epoch, 1.0, 0.5, 1.0, 0.5, 0.1, 1000.0, True) for epoch in range(1, count + 1)]


def test_a_training_is_shown_from_before_its_first_epoch_to_its_last(tmp_path: Path) -> None:
    training, data = make_training(), make_data()
    records = train(training, data, epochs=3)
    draw_learning(training.model, data, training.frames, records, tmp_path)
    first, *_, last = shown = pages(tmp_path)
    assert len(shown) == 4 and durations(tmp_path) == [400, 400, 400, 2000]
    for top in (0, 2 * LINE, 3 * LINE + TILE):
        assert (first[top : top + LINE] != last[top : top + LINE]).any(), "words, kernels and maps change"
    assert first.shape[1] < 800, "fits into a page"


def test_red_is_above_zero_and_blue_below_on_one_scale_for_all_frames(tmp_path: Path) -> None:
    layer, frames = nn.Conv2d(1, 1, 2), Frames()
    for epoch in range(3):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.5]]) * epoch)
        frames = add_frame(frames, epoch, layer)
    draw_learning(layer, make_data(1), frames, epochs(2), tmp_path)
    half, left = TILE // 2, 2 * GAP + TILE
    before, between, after = (page[2 * LINE :, left:] for page in pages(tmp_path))
    corners = [(0, 0), (0, half), (half, 0), (half, half)]
    assert all((before[corner] > 240).all() for corner in corners), "zero is white"
    (red, blue, zero, some), (weak_red, weak_blue, _, _) = ([page[c] for c in corners] for page in (after, between))
    assert red[0] > red[2] and blue[0] < blue[2] and (zero > 240).all()
    assert red.sum() < weak_red.sum() and blue.sum() < weak_blue.sum(), "growth is visible"
    assert (some == weak_red).all(), "0.5 of 2 epochs is 1 of one"


def test_a_map_stands_under_the_middle_of_its_kernel(tmp_path: Path) -> None:
    """Of 28 pixels, a tile has room for 3 times as many; of a kernel's 5 for 19 times."""
    layer, frames = nn.Conv2d(1, 1, 5), Frames()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    data = make_data(1)
    data.test.images.fill_(255)
    draw_learning(layer, data, add_frame(frames, 0, layer), epochs(0), tmp_path)
    (page,) = pages(tmp_path)
    middles = []
    for top in (2 * LINE + 1, 3 * LINE + TILE + 1):
        coloured = np.flatnonzero((page[top + 5, 2 * GAP + TILE :] < 240).any(1))
        middles.append((coloured[0] + coloured[-1]) / 2)
    assert middles[0] == pytest.approx(middles[1], abs=1) and middles[0] == pytest.approx(TILE / 2, abs=1)


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (64, 1), (100, 3)])
def test_the_largest_is_under_2_mb(tmp_path: Path, side: int, channels: int) -> None:
    """Noise, which cannot be compressed, in as many frames and kernels as there can be."""
    images = torch.randint(0, 256, (2, channels, side, side), dtype=torch.uint8)
    split = Split(images, torch.zeros(2, dtype=torch.long))
    data, frames = Data("noise", split, split, split, ("a", "b"), False, "digest"), Frames()
    for epoch in range(1000):
        layer = nn.Conv2d(channels, 64, 3, padding=1)
        frames = add_frame(frames, epoch, layer)
    draw_learning(layer, data, frames, epochs(999), tmp_path)
    assert MOST_FRAMES / 2 <= len(pages(tmp_path)) <= MOST_FRAMES
    assert (tmp_path / "learning.gif").stat().st_size < 2_000_000


@pytest.mark.parametrize("model", [nn.Linear(784, 10), nn.Conv2d(3, 6, 5)], ids=["flat", "on colours"])
def test_without_a_convolution_on_the_images_there_is_none(tmp_path: Path, model: nn.Module) -> None:
    draw_learning(model, make_data(3), add_frame({}, 0, model), epochs(0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_untrained_net_of_zeros_has_one(tmp_path: Path) -> None:
    layer = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    draw_learning(layer, make_data(1), add_frame({}, 0, layer), epochs(0), tmp_path)
    (page,) = pages(tmp_path)
    assert (page[2 * LINE : 2 * LINE + TILE, 2 * GAP + TILE :] > 240).all()
