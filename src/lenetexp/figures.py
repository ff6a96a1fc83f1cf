"""The pictures: the only room that imports matplotlib. Takes numbers, returns figures."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Figure  # what other rooms call it too
from matplotlib.legend import Legend
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray

from lenetexp.config import short

# It would say on a first import that it looks for fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

TRAIN, VAL, WRONG, INK = "#8a8f98", "#1f6fb4", "#c8372d", "#22262b"
FAINT = "#d5d8dc"
COLOURS = [
    "#1f6fb4", "#e0862a", "#3a9a5b", "#c8372d", "#7b5ea7", "#8c6d46",
    "#d765a7", "#20a3a3", "#a3a829", "#5b6470", "#0b3c5d", "#b8860b",
]  # fmt: skip
LONGEST = 28  # characters of a name beside a picture
NAMED = len(COLOURS)  # lines that get a colour and a name; with more, no one finds them in a legend
CLASSES_WITH_COUNTS = 30  # with more classes, the counts in a confusion matrix cannot be read

Array = NDArray[np.float64]
Images = NDArray[np.uint8]  # N×C×H×W
Curve = Sequence[tuple[int, float]]  # epoch, accuracy


@dataclass(frozen=True)
class Point:
    """What one combination of a sweep's values came to."""

    at: Mapping[str, str]  # the values by their keys
    accuracy: float  # NaN where there is none
    half_width: float = nan  # of its 95 % interval; NaN where it is not known
    diverged: bool = False  # the run, or one of its seeds


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Writes each figure as folder/<name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        # Little compression: half the time of the default for a fifth more bytes.
        figure.savefig(folder / f"{name}.png", dpi=110, pil_kwargs={"compress_level": 2})


def learning_curves(
    train_loss: Sequence[float],
    val_loss: Sequence[float],
    train_accuracy: Sequence[float],
    val_accuracy: Sequence[float],
    best_epoch: int,
    title: str,
) -> Figure:
    """Loss and accuracy against the epoch, with the epoch of the best weights marked."""
    figure = _figure(10, 4.2, title)
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(left=min(1, len(train_loss) - 1))
        _plain(axes)
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(top=1.005)
    best = val_accuracy[best_epoch - 1]
    accuracy.annotate(
        f"{best:.2%}",
        (best_epoch, best),
        xytext=(-6, -14),
        textcoords="offset points",
        color=VAL,
        ha="right",
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
    classes = [_label(name) for name in classes]
    number, longest = len(classes), max(map(len, classes))
    side = min(max(5.0, 0.55 * number + 1.5), 14.0)
    figure = _figure(side, side, title, left=0.75 + 0.07 * longest, bottom=0.65 + 0.07 * longest)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.eye(number, dtype=bool)
    # Mistakes are few: the root of their share keeps one in a hundred visible.
    colour = np.where(right[..., None], _tint(VAL, share), _tint(WRONG, np.sqrt(share)))
    axes.imshow(colour)
    size = 9 if number <= 12 else 6.5
    turned = 90 if longest > 3 else 0
    axes.set_xticks(range(number), classes, fontsize=size, rotation=turned, parse_math=False)
    axes.set_yticks(range(number), classes, fontsize=size, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
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
        figure = Figure(figsize=(6, 1.5))
        figure.text(0.5, 0.5, "No mistakes: every example is right", ha="center", va="center")
        return figure
    captions = [f"{p} ({c:.0%})\nis {a}" for p, a, c in zip(predicted, actual, confidence, strict=True)]
    tiles = [_Tile(_rgb(i), caption, WRONG, 2.5) for i, caption in zip(images, captions, strict=True)]
    return _sheet(tiles, 5, title)


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
    tiles = [
        _Tile(_rgb(image), caption, *((INK, 0.5) if ok else (WRONG, 2.5)))
        for image, caption, ok in zip(images, captions, right, strict=True)
    ]
    return _sheet(tiles, 5 if len(tiles) <= 25 else 10, title)


def own_pictures(
    names: Sequence[str], originals: Sequence[Images], prepared: Images, captions: Sequence[str], title: str
) -> Figure:
    """The user's pictures, each beside what the net was given of it.

    Args:
        names: the files'.
        originals: H×W or H×W×3 arrays of any size.
        prepared: N×C×H×W.
        captions: what the net says of each.
        title: what the figure shows.
    """
    tiles = []
    for name, original, image, caption in zip(names, originals, prepared, captions, strict=True):
        grey = original if original.ndim == 3 else np.repeat(original[..., None], 3, axis=2)
        tiles += [_Tile(grey, _label(name, 18), TRAIN), _Tile(_rgb(image), caption, VAL)]
    return _sheet(tiles, 2 * min(len(originals), 4), title)


def filters(kernels: Array, image: Images, maps: Array, title: str) -> Figure:
    """The first layer's kernels, and what each makes of one image.

    Args:
        kernels: K×C×h×w weights.
        image: C×H×W, as the net saw it.
        maps: K×H×W, the layer's output before the activation.
        title: what the figure shows.
    """
    shown = min(len(kernels), 8)
    weights, responses = _around_zero(kernels), _around_zero(maps)
    nothing = np.ones((1, 1, 3))
    tiles = [
        _Tile(nothing),
        *(_Tile(weights.to_rgba(kernels[i].mean(0)), f"kernel {i + 1}") for i in range(shown)),
        _Tile(_rgb(image), "input"),
        *(_Tile(responses.to_rgba(maps[i]), f"map {i + 1}") for i in range(shown)),
    ]
    figure = _sheet(tiles, shown + 1, title, right=1.0)
    width, height = figure.get_size_inches()
    for row, (scale, label) in enumerate(((weights, "weight"), (responses, "response"))):
        bottom = (height - TITLE - (row + 1) * ROW + 0.1) / height
        bar = figure.add_axes((1 - 0.9 / width, bottom, 0.12 / width, TILE / height))
        figure.colorbar(scale, cax=bar, label=label)
    return figure


def sweep_curves(runs: Sequence[tuple[str, Sequence[Curve]]], title: str) -> Figure:
    """Validation accuracy by epoch of all runs of a sweep.

    Args:
        runs: the best first: a name, and the curve of every run of that name.
        title: what the figure shows.
    """
    names = [_label(name, 80) for name, _ in runs[:NAMED]]
    width = 7.4 + 0.07 * max(map(len, names))
    figure = _figure(width, 5, title)
    axes = figure.subplots()
    figure.subplots_adjust(right=6.6 / width)
    for rank, (name, curves) in reversed(list(enumerate(runs))):
        named = rank < NAMED
        colour = COLOURS[rank % len(COLOURS)] if named else FAINT
        for i, curve in enumerate(curves):
            axes.plot(
                *zip(*curve, strict=True), color=colour, linewidth=1.6 if named else 0.8,
                alpha=1 / len(curves) ** 0.4, label=name if named and i == 0 else None,
                marker="o" if len(curve) == 1 else None,
            )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(None, 1.005))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)
    handles, names = axes.get_legend_handles_labels()
    heading = "best first" if len(runs) <= NAMED else f"the best {NAMED} of {len(runs)}"
    legend = axes.legend(
        handles[::-1], [_label(name, 80) for name in names[::-1]], title=heading,
        loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, alignment="left",
    )  # fmt: skip
    _plain_words(legend)
    return figure


def accuracy_against(keys: Sequence[str], points: Sequence[Point], title: str) -> Figure:
    """Accuracy against each swept key, an axes each, with a colour for every value of the others.

    Numbers are joined by lines where they make a grid; words, and what a search tried over several keys,
    are not. Words stand in the order of the best accuracy that each had. A cross is a run that diverged.
    """
    figure = _figure(5.2 * len(keys), 4.4, title)
    for axes, key in zip(np.atleast_1d(figure.subplots(1, len(keys))), keys, strict=True):
        values, numeric = _ordered((point.at[key], point.accuracy) for point in points)
        places = [float(value) for value in values] if numeric else list(range(len(values)))
        place_of = dict(zip(values, places, strict=True))
        if numeric and min(places) > 0 and max(places) >= 8 * min(places):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        others: dict[str, list[Point]] = {}
        for point in points:
            name = ", ".join(_label(point.at[k]) for k in keys if k != key)
            others.setdefault(name, []).append(point)
        grid = len(points) > 0.75 * len(others) * len(values)
        if len(others) > NAMED or 2 * len(others) > len(points):  # nearly as many as points: a search's
            others, grid = {"": list(points)}, len(keys) == 1
        if len(values) <= 8 and (grid or not numeric):
            said = [_label(value) for value in values]
            turned, size = (20, 8) if sum(map(len, said)) > 40 else (0, None)
            axes.set_xticks(places, said, rotation=turned, fontsize=size, parse_math=False)
        names, _ = _ordered((name, point.accuracy) for name in others for point in others[name])
        for i, name in enumerate(names):
            # Beside each other, where several would hide each other.
            aside = 0.0 if numeric else 0.06 * (i - (len(names) - 1) / 2)
            line = sorted(others[name], key=lambda point: place_of[point.at[key]])
            x = np.array([place_of[point.at[key]] + aside for point in line])
            y, spread = np.array([[point.accuracy, point.half_width] for point in line]).T
            # Where the interval is not known there is no bar; no accuracy lies outside 0 and 1.
            bars = np.array([np.minimum(spread, y), np.minimum(spread, 1 - y)])
            joined = numeric and grid and len(set(x)) == len(x)
            axes.errorbar(
                x, y, yerr=None if np.isnan(spread).all() else bars, capsize=3,
                color=COLOURS[i], linestyle="-" if joined else "",
            )  # fmt: skip
            lost = np.array([point.diverged for point in line])
            axes.plot(
                x[~lost], y[~lost], "o", markersize=4, color=COLOURS[i], label=name or None, clip_on=False
            )
            cross = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "linestyle": ""}
            axes.plot(x[lost], y[lost], color=COLOURS[i], **cross)
            # Those that have no accuracy at all stand at the foot.
            never = x[lost & np.isnan(y)]
            axes.plot(
                never, [0.03] * len(never), color=COLOURS[i], transform=axes.get_xaxis_transform(), **cross
            )
        if any(point.diverged for point in points):
            axes.plot([], [], color=INK, label="diverged", **cross)
        axes.set_xlabel(key, parse_math=False)
        axes.set(ylabel="validation accuracy", ylim=(None, 1.0))
        _plain(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            heading = ", ".join(k.rpartition(".")[2] for k in keys if k != key) if len(names) > 1 else None
            _plain_words(axes.legend(handles, labels, title=heading, frameon=False, fontsize=8))
    figure.subplots_adjust(wspace=0.25)
    return figure


def heat_map(keys: Sequence[str], points: Sequence[Point], title: str) -> Figure:
    """Accuracy over two swept keys, the first down and the second across, the figure in every cell."""
    rows, _ = _ordered((point.at[keys[0]], point.accuracy) for point in points)
    columns, _ = _ordered((point.at[keys[1]], point.accuracy) for point in points)
    cells = {(rows.index(p.at[keys[0]]), columns.index(p.at[keys[1]])): p for p in points}
    accuracy = np.full((len(rows), len(columns)), np.nan)
    for place, point in cells.items():
        accuracy[place] = point.accuracy
    figure = _figure(
        max(1.1 * len(columns) + 2.4, 0.09 * len(title) + 0.4), 0.6 * len(rows) + 1.6, title,
        left=0.9 + 0.075 * max(len(_label(row)) for row in rows), bottom=0.7,
    )  # fmt: skip
    axes = figure.subplots()
    axes.imshow(np.ma.masked_invalid(accuracy), cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), [_label(column, 12) for column in columns], parse_math=False)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], parse_math=False)
    axes.set_xlabel(keys[1], parse_math=False)
    axes.set_ylabel(keys[0], parse_math=False)
    middle = (np.nanmin(accuracy) + np.nanmax(accuracy)) / 2
    for place, value in np.ndenumerate(accuracy):
        missing = isnan(value)
        said = [] if missing else [f"{value:.1%}"]
        if place in cells and cells[place].diverged:
            said.append("diverged")
        axes.text(
            place[1], place[0], "\n".join(said) or "none", ha="center", va="center",
            fontsize=None if len(said) < 2 else 8.5,
            color=INK if missing or value > middle else "white",
        )  # fmt: skip
    return figure


def _ordered(values: Iterable[tuple[str, float]]) -> tuple[list[str], bool]:
    """Values, each given with its accuracies, once, and whether they are numbers; words the best first."""
    best: dict[str, float] = {}
    for value, accuracy in values:
        best[value] = max(best.get(value, -1.0), -1.0 if isnan(accuracy) else accuracy)
    try:
        return sorted(best, key=float), True
    except ValueError:
        return sorted(best, key=lambda value: -best[value]), False


# Inches: the side of a small image, the row and the column that it stands in, the space of a title.
TILE, ROW, COLUMN, TITLE = 1.25, 1.75, 1.45, 0.45


@dataclass(frozen=True)
class _Tile:
    """A small image with what is said of it."""

    image: NDArray[Any]  # H×W×3 or 4
    caption: str = ""
    colour: str = INK
    frame: float = 0.0  # points


def _sheet(tiles: Sequence[_Tile], columns: int, title: str, right: float = 0.0) -> Figure:
    """Small images in rows, on one axes measured in inches: an axes for each would cost ten times more."""
    columns = min(len(tiles), columns)
    width = max(COLUMN * columns, 4.0) + right
    height = TITLE + ROW * ceil(len(tiles) / columns)
    figure = Figure(figsize=(width, height))
    figure.text(
        0.5, 1 - 0.14 / height, title, ha="center", va="top", color=INK, fontsize=12, parse_math=False
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for i, tile in enumerate(tiles):
        middle = COLUMN * (i % columns + 0.5)
        bottom = TITLE + ROW * (i // columns + 1) - 0.1
        rows, across = tile.image.shape[:2]
        half_width, tall = TILE / 2 * min(1, across / rows), TILE * min(1, rows / across)
        box = (middle - half_width, middle + half_width, bottom, bottom - tall)
        axes.imshow(tile.image, extent=box)
        if tile.frame:
            corner = (middle - half_width, bottom - tall)
            axes.add_patch(
                Rectangle(corner, 2 * half_width, tall, fill=False, color=tile.colour, linewidth=tile.frame)
            )
        axes.text(
            middle, bottom - tall - 0.05, tile.caption, ha="center", va="bottom",
            fontsize=9, color=tile.colour, linespacing=1.05, parse_math=False,
        )  # fmt: skip
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure


def _title(figure: Figure, title: str) -> None:
    """Above all else."""
    top = 1 - 0.14 / figure.get_size_inches()[1]
    figure.text(0.5, top, title, ha="center", va="top", color=INK, fontsize=12, parse_math=False)


def _figure(width: float, height: float, title: str, left: float = 0.85, bottom: float = 0.6) -> Figure:
    """An empty figure with margins in inches: matplotlib's own fitting draws everything twice."""
    figure = Figure(figsize=(width, height))
    figure.text(
        0.5, 1 - 0.14 / height, title, ha="center", va="top", color=INK, fontsize=12, parse_math=False
    )
    figure.subplots_adjust(
        left=left / width, right=1 - 0.25 / width, bottom=bottom / height, top=1 - 0.5 / height, wspace=0.2
    )
    return figure


def _label(name: str, longest: int = LONGEST) -> str:
    """A name as there is room for beside a picture."""
    name = short(name)
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 + 1 :]}"


def _plain_words(legend: Legend) -> None:
    """A dollar in a name is no formula."""
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _around_zero(values: Array) -> ScalarMappable:
    """Blue below zero, white at it, red above."""
    limit = np.abs(values).max()
    return ScalarMappable(Normalize(-limit, limit), "RdBu_r")


def _rgb(image: Images) -> NDArray[np.uint8]:
    """C×H×W grey or colour to H×W×3."""
    return np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)


def _tint(colour: str, strength: Array) -> Array:
    """White at 0, `colour` at 1."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return 1 - strength[..., None] * (1 - rgb)
