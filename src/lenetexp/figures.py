"""The pictures: the only room that imports matplotlib. Takes numbers, returns figures."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure  # what other rooms call it too
from numpy.typing import NDArray

TRAIN, VAL, WRONG, INK = "#8a8f98", "#1f6fb4", "#c8372d", "#22262b"
CLASSES_WITH_COUNTS = 30  # with more classes, the counts in a confusion matrix cannot be read

Array = NDArray[np.float64]
Images = NDArray[np.uint8]  # N×C×H×W


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Writes each figure as folder/<name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)


def learning_curves(
    train_loss: Sequence[float],
    val_loss: Sequence[float],
    train_accuracy: Sequence[float],
    val_accuracy: Sequence[float],
    best_epoch: int,
    title: str,
) -> Figure:
    """Loss and accuracy against the epoch, with the epoch of the best weights marked."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(title, color=INK)
    loss, accuracy = figure.subplots(1, 2)
    epochs = range(1, len(train_loss) + 1)
    marker = "o" if len(train_loss) <= 20 else None
    for axes, train, val, label in (
        (loss, train_loss, val_loss, "loss [nats an example]"),
        (accuracy, train_accuracy, val_accuracy, "accuracy"),
    ):
        axes.plot(epochs, train, color=TRAIN, marker=marker, markersize=4, label="training")
        axes.plot(epochs, val, color=VAL, marker=marker, markersize=4, label="validation")
        axes.axvline(best_epoch, color=INK, linewidth=0.8, linestyle=":", label="best weights")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(top=1.005)
    best = val_accuracy[best_epoch - 1]
    accuracy.annotate(
        f"{best:.2%}", (best_epoch, best), xytext=(6, -16), textcoords="offset points", color=VAL
    )
    accuracy.legend(loc="lower right", frameon=False)
    return figure


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Rows true, columns predicted: shade is the share of the row, mistakes in red.

    Args:
        counts: classes×classes numbers of examples.
        classes: their names.
        title: what the figure shows.
    """
    number = len(classes)
    side = min(max(5.0, 0.55 * number + 1.5), 14.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.eye(number, dtype=bool)
    # Mistakes are few: the root of their share keeps one in a hundred visible.
    colour = np.where(right[..., None], _tint(VAL, share), _tint(WRONG, np.sqrt(share)))
    axes.imshow(colour)
    size = 9 if number <= 12 else 6.5
    axes.set_xticks(range(number), classes, fontsize=size, rotation=90 if _long(classes) else 0)
    axes.set_yticks(range(number), classes, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if number <= CLASSES_WITH_COUNTS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = (share if row == column else np.sqrt(share))[row, column] > 0.55
            axes.text(
                column, row, counts[row, column], ha="center", va="center",
                fontsize=size, color="white" if dark else INK,
            )  # fmt: skip
    return figure


def mistakes(
    images: Images,
    predicted: Sequence[str],
    actual: Sequence[str],
    confidence: Sequence[float],
    title: str,
) -> Figure:
    """The images that the net got wrong with the greatest confidence, each with what it said."""
    if len(images) == 0:
        figure = Figure(figsize=(6, 1.5), layout="constrained")
        figure.text(0.5, 0.5, f"{title}: none, every example is right", ha="center", va="center")
        return figure
    captions = [f"{p} ({c:.0%})\nis {a}" for p, a, c in zip(predicted, actual, confidence, strict=True)]
    return _grid(images, captions, [False] * len(images), title)


def predictions(
    images: Images, predicted: Sequence[str], actual: Sequence[str], confidence: Sequence[float]
) -> Figure:
    """Images with what the net says; a mistake has a red frame and the true class."""
    right = [p == a for p, a in zip(predicted, actual, strict=True)]
    captions = [
        f"{p} ({c:.0%})" + ("" if ok else f"\nis {a}")
        for p, a, c, ok in zip(predicted, actual, confidence, right, strict=True)
    ]
    wrong = right.count(False)
    title = f"{len(right)} images, {'no mistake' if wrong == 0 else f'{wrong} wrong'}"
    return _grid(images, captions, right, title)


def own_pictures(
    originals: Sequence[Images], prepared: Images, captions: Sequence[str], title: str
) -> Figure:
    """The user's pictures, each beside what the net was given of it.

    Args:
        originals: H×W or H×W×3 arrays of any size.
        prepared: N×C×H×W.
        captions: what the net says of each.
        title: what the figure shows.
    """
    columns = min(len(originals), 4)
    rows = ceil(len(originals) / columns)
    figure = Figure(figsize=(3.4 * columns, 1.95 * rows + 0.5), layout="constrained")
    figure.suptitle(title, color=INK)
    axes = np.atleast_2d(figure.subplots(rows, 2 * columns, squeeze=False))
    for cell in axes.flat:
        cell.axis("off")
    for i, (original, image, caption) in enumerate(zip(originals, prepared, captions, strict=True)):
        left, right = axes[i // columns, 2 * (i % columns) : 2 * (i % columns) + 2]
        left.imshow(original, cmap="gray")
        _show(right, image)
        right.set_title(caption, fontsize=10, color=VAL)
        left.set_title("yours", fontsize=8, color=TRAIN)
    return figure


def filters(kernels: Array, image: Images, maps: Array, title: str) -> Figure:
    """The first layer's kernels, and what each makes of one image.

    Args:
        kernels: K×C×h×w weights.
        image: C×H×W, as the net saw it.
        maps: K×H×W, the layer's output before the activation.
        title: what the figure shows.
    """
    shown = min(len(kernels), 8)
    figure = Figure(figsize=(1.5 * (shown + 1), 3.9), layout="constrained")
    figure.suptitle(title, color=INK)
    axes = figure.subplots(2, shown + 1, squeeze=False)
    for cell in axes.flat:
        cell.axis("off")
    _show(axes[1, 0], image)
    axes[1, 0].set_title("input", fontsize=9)
    weight_limit, map_limit = np.abs(kernels).max(), np.abs(maps).max()
    for i in range(shown):
        kernel = axes[0, i + 1].imshow(
            kernels[i].mean(0), cmap="RdBu_r", vmin=-weight_limit, vmax=weight_limit
        )
        axes[0, i + 1].set_title(f"kernel {i + 1}", fontsize=9)
        feature = axes[1, i + 1].imshow(maps[i], cmap="RdBu_r", vmin=-map_limit, vmax=map_limit)
    figure.colorbar(kernel, ax=axes[0, :].tolist(), label="weight", shrink=0.8, pad=0.01)
    figure.colorbar(feature, ax=axes[1, :].tolist(), label="response", shrink=0.8, pad=0.01)
    return figure


def _grid(images: Images, captions: Sequence[str], right: Sequence[bool], title: str) -> Figure:
    columns = min(len(images), 5 if len(images) <= 25 else 10)
    rows = ceil(len(images) / columns)
    figure = Figure(figsize=(max(1.45 * columns, 4), 1.85 * rows + 0.5), layout="constrained")
    figure.suptitle(title, color=INK)
    axes = figure.subplots(rows, columns, squeeze=False)
    for cell in axes.flat:
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    for cell, image, caption, ok in zip(axes.flat, images, captions, right, strict=False):
        _show(cell, image)
        cell.spines[:].set(visible=True, color=TRAIN if ok else WRONG, linewidth=0.8 if ok else 2.5)
        cell.set_title(caption, fontsize=9, color=INK if ok else WRONG)
    return figure


def _show(axes: Axes, image: Images) -> None:
    """C×H×W uint8, grey or colour."""
    if image.shape[0] == 3:
        axes.imshow(image.transpose(1, 2, 0))
    else:
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=255)


def _tint(colour: str, strength: Array) -> Array:
    """White at 0, `colour` at 1."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return 1 - strength[..., None] * (1 - rgb)


def _long(names: Sequence[str]) -> bool:
    return max(map(len, names)) > 3
