"""The pictures of a run and of predictions."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor, nn

from lenetexp.datasets.splits import Data
from lenetexp.reporting.diagnostics_figure import draw_diagnostics
from lenetexp.reporting.style import INK, TRAIN, VAL, WRONG, make_figure, save_figures, shorten_label, styled, with_grid
from lenetexp.training.batches import convert_to_floats
from lenetexp.training.evaluate import Scores, is_better_than_chance
from lenetexp.training.frames import MOST_KERNELS, find_first_convolution
from lenetexp.training.state import EpochRecord

MOST_MISTAKES = 25  # in a picture
CLASSES_WITH_COUNTS = 30  # with more classes, the counts in a confusion matrix cannot be read
# Inches: the side of a small image, the row and the column that it is in, the space for a title.
TILE, ROW, COLUMN, TITLE = 1.25, 1.75, 1.45, 0.45

Images = NDArray[np.uint8]
Tile = tuple[NDArray[Any], str, str]  # an H×W×3 or H×W×4 image, its caption, the caption's colour


def draw_run(
    model: nn.Module,
    data: Data,
    test: Scores,
    history: Sequence[EpochRecord],
    best: EpochRecord,
    closeup: Sequence[Mapping[str, float]],
    label: str,
    folder: Path,
) -> None:
    """Write the pictures of a run. Without a convolution there is no filters.png.

    Args:
        model: The net with its best weights.
        data: The three splits.
        test: The net's outputs for the test images.
        history: The records of all epochs.
        best: The record of the best epoch.
        closeup: What was measured inside the net after every batch, if it was.
        label: The settings on the command line, in short.
        folder: Where the pictures go.
    """
    summary = f"{data.name}, {len(test.labels):,} test images: accuracy {test.accuracy:.2%}"
    title = ": ".join(filter(None, [f"{type(model).__name__} on {data.name}", shorten_label(label, 90)]))
    figures = {
        "learning_curves": draw_learning_curves(history, best, len(data.classes), title),
        "confusion_matrix": draw_confusion_matrix(test.count_confusion().numpy(), data.classes, summary),
        "mistakes": draw_mistakes(data, test),
    }
    name, first = find_first_convolution(model) or ("", None)
    if first is not None and first.in_channels == data.image_shape[0]:
        title_of_filters = f"The filters of {name} and their responses to one {data.name} image"
        figures["filters"] = draw_filters(first, data.test.images[0], title_of_filters)
    rows, unit = (closeup, "batch") if closeup else ([record.inside for record in history], "epoch")
    if inside := draw_diagnostics(rows, unit, title):
        figures["inside"] = inside
    save_figures(figures, folder)


@with_grid
def draw_learning_curves(history: Sequence[EpochRecord], best: EpochRecord, classes: int, title: str) -> Figure:
    """Draw loss and accuracy of every epoch, with a dotted line at the best one.

    The accuracy axis reaches from the lowest value to 1, or, if a curve begins nearer to guessing than to 1, from 0.
    """
    figure = make_figure(11, 4.2, title, fitted=False)
    figure.subplots_adjust(left=0.065, right=0.835, bottom=0.145, top=0.88)
    losses, accuracies = figure.subplots(1, 2)
    epochs = [record.epoch for record in history]
    marker = "o" if len(epochs) <= 20 else None
    for axes, name, train, val in (
        (losses, "loss per example", [r.train_loss for r in history], [r.val_loss for r in history]),
        (accuracies, "accuracy", [r.train_accuracy for r in history], [r.val_accuracy for r in history]),
    ):
        for values, colour, of in ((train, TRAIN, "training"), (val, VAL, "validation")):
            # Not clipped: markers stand on the axes, at a loss of 0 or an accuracy of 1.
            axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=of, clip_on=False, zorder=3)
        axes.axvline(best.epoch, color=INK, linewidth=0.8, linestyle=":", label=f"best epoch: {best.val_accuracy:.2%}")
        room = max(0.03 * len(epochs), 0.2)
        axes.set(xlabel="epoch", ylabel=name, xlim=(1 - room, len(epochs) + room))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    losses.set_ylim(bottom=0)
    chance, lowest = 1 / classes, min(min(record.train_accuracy, record.val_accuracy) for record in history)
    if lowest - chance < 1 - lowest:
        accuracies.axhline(chance, color=TRAIN, linewidth=0.8, linestyle="--", label=f"chance: {chance:.1%}")
        accuracies.set_ylim(0, 1)
    else:
        accuracies.set_ylim(lowest - max(0.05 * (1 - lowest), 0.005), 1)
    # Beside the curves, whose shape nobody knows beforehand.
    accuracies.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return figure


@styled
def draw_confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Draw classes×classes counts, rows true, columns predicted, shaded by the share of the row, mistakes in red."""
    names = [shorten_label(name) for name in classes]
    size = 9 if len(names) <= 12 else 6.5
    side = min(max(5.0, 0.55 * len(names) + 1.5), 14.0)
    figure = make_figure(side, side, title)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    correct = np.eye(len(names), dtype=bool)
    # Mistakes are few: the root of their share keeps one in a hundred visible.
    strength = np.where(correct, share, np.sqrt(share))[..., None]
    axes.imshow(1 - strength + strength * np.where(correct[..., None], to_rgb(VAL), to_rgb(WRONG)))
    axes.set_xticks(range(len(names)), names, fontsize=size, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true")
    for row, column in np.argwhere(counts) if len(names) <= CLASSES_WITH_COUNTS else ():
        colour = "white" if strength[row, column] > 0.55 else INK
        text = axes.text(column, row, str(counts[row, column]), color=colour, fontsize=size, ha="center", va="center")
        text.set_in_layout(False)  # hundreds of them would be measured
    return figure


def draw_mistakes(data: Data, test: Scores) -> Figure:
    """Draw the misclassified test images, the most confident mistakes first."""
    wrong = torch.nonzero(test.predicted != test.labels).flatten()
    worst = wrong[test.confidence[wrong].argsort(descending=True)][:MOST_MISTAKES]
    if len(wrong) > len(worst):
        title = f"The {len(worst)} most confident of {len(wrong):,} misclassified test images"
        if not is_better_than_chance(test.accuracy, len(data.classes), len(test.labels)):
            title = f"A net at chance ({test.accuracy:.1%}): {len(worst)} of its {len(wrong):,} mistakes"
    else:
        title = f"{len(wrong)} of {len(test.labels):,} test images misclassified"
    predicted, actual = ([data.classes[i] for i in numbers[worst]] for numbers in (test.predicted, test.labels))
    return draw_predictions(
        data.test.images[worst].cpu().numpy(), predicted, actual, test.confidence[worst].tolist(), title
    )


@styled
def draw_predictions(
    images: Images, predicted: Sequence[str], actual: Sequence[str], confidence: Sequence[float], title: str = ""
) -> Figure:
    """Draw N×C×H×W images with their predicted classes. Mistakes are red and show the true class, too."""
    tiles: list[Tile] = []
    for image, guess, truth, share in zip(images, predicted, actual, confidence, strict=True):
        colour = INK if guess == truth else WRONG
        caption = f"{shorten_label(guess, 14)} ({share:.0%})" + (
            f"\nis {shorten_label(truth, 18)}" if colour == WRONG else ""
        )
        tiles.append((_convert_to_rgb(image), caption, colour))
    count = sum(colour == WRONG for _, _, colour in tiles)
    return _draw_sheet(tiles, 5 if len(tiles) <= 25 else 10, title or f"{count} of {len(tiles)} images misclassified")


@styled
def draw_prepared_photos(
    names: Sequence[str], originals: Sequence[Images], prepared: Images, captions: Sequence[str], title: str
) -> Figure:
    """Draw H×W×3 photos of any size, each beside the N×C×H×W form that the net was given."""
    tiles: list[Tile] = []
    for name, original, image, caption in zip(names, originals, prepared, captions, strict=True):
        tiles += [(original, shorten_label(name, 18), TRAIN), (_convert_to_rgb(image), shorten_label(caption, 20), VAL)]
    return _draw_sheet(tiles, 2 * min(len(originals), 4), title)


@styled
def draw_filters(layer: nn.Conv2d, image: Tensor, title: str) -> Figure:
    """Draw a layer's first kernels, as means over their channels, and the response of each to a C×H×W image."""
    with torch.inference_mode():
        kernels = layer.weight[:MOST_KERNELS].mean(1).cpu().numpy()
        maps = layer(convert_to_floats(image[None]))[0, :MOST_KERNELS].cpu().numpy()
    tiles: list[Tile] = []
    scales = []
    nothing, original = (np.ones((1, 1, 3)), "", INK), (_convert_to_rgb(image.cpu().numpy()), "input", INK)
    for first, name, values in ((nothing, "kernel", kernels), (original, "map", maps)):
        limit = np.abs(values).max()
        scales.append(ScalarMappable(Normalize(-limit, limit), "RdBu_r"))  # blue below zero, red above
        tiles += [first, *((scales[-1].to_rgba(value), f"{name} {i}", INK) for i, value in enumerate(values, 1))]
    figure = _draw_sheet(tiles, len(kernels) + 1, title, margin=1.0)
    width, height = figure.get_size_inches()
    for row, (scale, name) in enumerate(zip(scales, ("weight", "response"), strict=True)):
        bottom = (height - TITLE - (row + 1) * ROW + 0.1) / height
        axes = figure.add_axes((1 - 0.9 / width, bottom, 0.12 / width, TILE / height))
        figure.colorbar(scale, cax=axes, label=name)
    return figure


def _draw_sheet(tiles: Sequence[Tile], columns: int, title: str, margin: float = 0.0) -> Figure:
    """Draw small images in rows, some framed in red.

    All are on one axes in inches: an axes for each would take ten times longer.
    """
    columns = max(min(len(tiles), columns), 1)
    width = max(COLUMN * columns, 4.0) + margin
    height = TITLE + ROW * ceil(len(tiles) / columns)
    figure = make_figure(width, height, title, fitted=False)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for i, (image, caption, colour) in enumerate(tiles):
        tall, wide = (TILE * pixels / max(image.shape[:2]) for pixels in image.shape[:2])
        x, bottom = COLUMN * (i % columns + 0.5) - wide / 2, TITLE + ROW * (i // columns + 1) - 0.1
        top = bottom - tall
        axes.imshow(image, extent=(x, x + wide, bottom, top), aspect="auto")
        axes.text(x + wide / 2, top - 0.05, caption, color=colour, fontsize=9, ha="center", va="bottom")
        if colour == WRONG:
            axes.add_patch(Rectangle((x, top), wide, tall, fill=False, color=colour, linewidth=2.5))
    return figure


def _convert_to_rgb(image: Images) -> Images:
    """Convert C×H×W, grey or colour, to H×W×3."""
    return np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
