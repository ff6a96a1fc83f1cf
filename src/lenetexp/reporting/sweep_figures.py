"""The pictures of a sweep."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, isnan, nan, prod
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lenetexp.config.identity import swept_name
from lenetexp.reporting.style import FAINT, INK, label, light_grid, new_figure, save, styled

NAMED = 10  # recipes that get a colour, of matplotlib's C0 to C9, and a name in the legend
CROSS: dict[str, Any] = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "linestyle": ""}


@dataclass(frozen=True)
class SweepPoint:
    """One recipe of a sweep, whose runs differ only in their seed."""

    values: Mapping[str, str]  # the swept values by their keys, without the seed
    accuracy: float  # mean of the runs' best validation accuracies; NaN if there are none
    half_width: float  # of the 95 % interval of that mean; NaN if not known
    diverged: bool  # whether any of its runs did
    curves: Sequence[Sequence[tuple[int, float]]]  # of each run: epoch, validation accuracy


def draw_sweep(points: Sequence[SweepPoint], keys: Sequence[str], folder: Path) -> None:
    """Writes the pictures of a sweep, its best point first, and deletes those that an earlier command left."""
    others = [key for key in keys if key != "seed"]
    settings = " and ".join(keys) if len(keys) < 4 else f"{len(keys)} settings"
    title = f"Best validation accuracy by {settings}"
    figures = {"learning_curves": learning_curves(points, f"Learning curves by {settings}")}
    if others:
        figures["accuracy"] = accuracy_by_key(others, points, title)
    counts = [len({point.values[key] for point in points}) for key in others]
    # If most pairs were tried: the trials of a search would leave the map empty.
    if len(counts) == 2 and min(counts) > 1 and len(points) > 0.75 * prod(counts):
        figures["heat_map"] = heat_map(others, points, title)
    save(figures, folder)
    for path in {*folder.glob("*.png")} - {folder / f"{name}.png" for name in figures}:
        path.unlink()


@styled
def learning_curves(points: Sequence[SweepPoint], title: str) -> Figure:
    """Validation accuracy by epoch of every run; the best recipes in colour, on top and in the legend."""
    names = [label(swept_name(point.values) or "all runs", 80) for point in points[:NAMED]]
    figure = new_figure(7 + 0.07 * max(map(len, names)), 5, title)
    axes = figure.subplots()
    for rank, point in enumerate(points):
        colour, width = (f"C{rank}", 1.6) if rank < NAMED else (FAINT, 0.8)
        for curve in point.curves:
            axes.plot(
                *zip(*curve, strict=True), color=colour, linewidth=width, alpha=len(point.curves) ** -0.4,
                marker="o" if len(curve) == 1 else None, zorder=3 - rank / len(points),
            )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(None, min(axes.get_ylim()[1], 1.005)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    light_grid(axes)
    lines = [Line2D([], [], color=f"C{rank}") for rank in range(len(names))]
    heading = "best first" if len(points) <= NAMED else f"the best {NAMED} of {len(points)}"
    axes.legend(lines, names, title=heading, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, alignment="left")
    return figure


@styled
def accuracy_by_key(keys: Sequence[str], points: Sequence[SweepPoint], title: str) -> Figure:
    """Accuracy against each swept key, side by side, with a colour for each combination of the other keys' values.

    Numbers of a grid are joined by lines; words are in the order of their best accuracy. A cross is a recipe that
    diverged, at the bottom if it has no accuracy.
    """
    figure = new_figure(5.2 * len(keys), 4.4, title)
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        _draw_against(axes, key, [other for other in keys if other != key], points)
    return figure


def _draw_against(axes: Axes, key: str, others: Sequence[str], points: Sequence[SweepPoint]) -> None:
    series: dict[str, list[SweepPoint]] = {}
    for point in points:
        series.setdefault(", ".join(label(point.values[other]) for other in others), []).append(point)
    values, numeric = _ordered((point.values[key], point.accuracy) for point in points)
    grid = len(points) > 0.75 * len(series) * len(values)
    if len(series) > NAMED or (not grid and 4 * len(series) > len(points)):  # too many or too small
        series, grid = {"": list(points)}, not others
    places = _place(axes, values, numeric, each=grid or 2 * len(values) <= len(points))
    names, _ = _ordered((name, point.accuracy) for name, members in series.items() for point in members)
    legend = {}
    for i, name in enumerate(names):
        aside = 0.0 if numeric else 0.06 * (i - (len(names) - 1) / 2)  # so that no point hides another
        members = sorted(series[name], key=lambda point: places[point.values[key]])
        x = np.array([places[point.values[key]] + aside for point in members])
        joined = numeric and grid and len(set(x)) == len(x)
        legend[name] = _draw_series(axes, x, members, f"C{i}", joined)
    if any(point.diverged for point in points):
        legend["diverged"] = Line2D([], [], color=INK, **CROSS)
    legend.pop("", None)
    axes.set(xlabel=key, ylabel="validation accuracy", ylim=(None, min(axes.get_ylim()[1], 1.0)))
    light_grid(axes)
    if legend:
        heading = ", ".join(other.rpartition(".")[2] for other in others) if len(series) > 1 else None
        axes.legend(list(legend.values()), list(legend), title=heading, fontsize=8)


def _place(axes: Axes, values: Sequence[str], numeric: bool, each: bool) -> dict[str, float]:
    """Sets scale and ticks of the x axis, for few numbers one for each; returns where every value is."""
    places = [float(value) for value in values] if numeric else [float(i) for i in range(len(values))]
    positive = [place for place in places if place > 0]
    if numeric and places[0] >= 0 and positive and places[-1] >= 8 * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0], subs=range(2, 10))  # a logarithm with room for a zero
        axes.xaxis.set_major_formatter("{x:g}")
    if not numeric or (each and len(values) <= 8):
        names = [label(value) for value in values]
        turned: dict[str, Any] = {"fontsize": 8, "rotation": 30, "rotation_mode": "anchor", "ha": "right"}
        axes.set_xticks(places, names, **turned if sum(map(len, names)) > 40 else {})
    return dict(zip(values, places, strict=True))


def _draw_series(axes: Axes, x: NDArray[Any], points: Sequence[SweepPoint], colour: str, joined: bool) -> Line2D:
    """Accuracies with their intervals; returns the dots, for the legend."""
    y, spread = np.array([(point.accuracy, point.half_width) for point in points]).T
    diverged = np.array([point.diverged for point in points])
    bars = np.minimum(spread, [y, 1 - y])  # no accuracy is below 0 or above 1
    axes.errorbar(x, y, yerr=bars, color=colour, linestyle="-" if joined else "", capsize=3)
    (dots,) = axes.plot(x[~diverged], y[~diverged], "o", markersize=4, color=colour, clip_on=False)
    axes.plot(x[diverged], y[diverged], color=colour, **CROSS)
    nowhere = x[diverged & np.isnan(y)]
    axes.plot(nowhere, np.full(len(nowhere), 0.03), color=colour, transform=axes.get_xaxis_transform(), **CROSS)
    return dots


@styled
def heat_map(keys: Sequence[str], points: Sequence[SweepPoint], title: str) -> Figure:
    """Accuracy over two swept keys, the first down and the second across, with its number in every cell."""
    rows, columns = (_ordered((point.values[key], point.accuracy) for point in points)[0] for key in keys)
    cells = {tuple(point.values[key] for key in keys): point for point in points}
    grid = [[cells.get((row, column)) for column in columns] for row in rows]
    accuracy = np.array([[nan if point is None else point.accuracy for point in line] for line in grid])
    figure = new_figure(max(1.1 * len(columns) + 2.4, 0.09 * len(title) + 0.4), 0.6 * len(rows) + 1.6, title)
    axes = figure.subplots()
    axes.imshow(accuracy, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), [label(column, 12) for column in columns])
    axes.set_yticks(range(len(rows)), [label(row) for row in rows])
    axes.set(xlabel=keys[1], ylabel=keys[0])
    middle = (np.nanmin(accuracy) + np.nanmax(accuracy)) / 2
    for (row, column), value in np.ndenumerate(accuracy):
        point = grid[row][column]
        lines = [] if isnan(value) else [f"{value:.1%}"]
        if point is not None and point.diverged:
            lines.append("diverged")
        colour = "white" if value <= middle else INK
        axes.text(column, row, "\n".join(lines) or "none", color=colour, ha="center", va="center")
    return figure


def _ordered(pairs: Iterable[tuple[str, float]]) -> tuple[list[str], bool]:
    """Values, each given with its accuracies, once, and whether they are numbers; words the best first."""
    best: dict[str, float] = {}
    for value, accuracy in pairs:
        best[value] = max(best.get(value, -1.0), accuracy)  # a NaN is never greater
    with suppress(ValueError):
        if all(isfinite(float(value)) for value in best):
            return sorted(best, key=float), True
    return sorted(best, key=lambda value: -best[value]), False
