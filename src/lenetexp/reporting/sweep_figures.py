"""The pictures of a sweep."""

from collections.abc import Sequence
from math import ceil, isnan
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series

from lenetexp.config.identity import swept_name
from lenetexp.reporting.report_parts import ordered
from lenetexp.reporting.style import FAINT, INK, VAL, label, new_figure, save, styled, with_grid

NAMED = 10  # recipes that get a colour, of matplotlib's C0 to C9, and a name in the legend
ACROSS = 3  # keys beside each other
CROSS: dict[str, Any] = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "linestyle": ""}


def draw_sweep(recipes: DataFrame, keys: Sequence[str], folder: Path) -> None:
    """Writes the pictures of `sweeps.results.recipes_of`, and deletes those that an earlier command left."""
    others = [key for key in keys if key != "seed"]
    settings = " and ".join(keys) if len(keys) < 4 else f"{len(keys)} settings"
    title = f"Best validation accuracy by {settings}"
    figures = {"learning_curves": learning_curves(others, recipes, f"Learning curves by {settings}")}
    if others:
        figures["accuracy"] = accuracy_by_key(others, recipes, title)
    known = recipes[recipes.published.notna()]
    if len(known):
        figures["published"] = beside_published(others, known, "Test error, and as published")
    counts = recipes[others].nunique()
    # If most pairs were tried: the trials of a search would leave the map empty.
    if len(counts) == 2 and counts.min() > 1 and len(recipes) > 0.75 * counts.prod():
        figures["heat_map"] = heat_map(others, recipes, title)
    save(figures, folder)
    for path in {*folder.glob("*.png")} - {folder / f"{name}.png" for name in figures}:
        path.unlink()


@with_grid
def learning_curves(keys: Sequence[str], recipes: DataFrame, title: str) -> Figure:
    """Validation accuracy by epoch of every run; the best recipes in colour, on top and in the legend."""
    best = recipes[[*keys]].head(NAMED).to_dict("records")
    names = [fill(label(swept_name(values) or "all runs", 400), 80) for values in best]
    lines_of_names = [line for name in names for line in name.split("\n")]
    figure = new_figure(7 + 0.07 * max(map(len, lines_of_names)), max(5, 0.16 * len(lines_of_names) + 1), title)
    axes = figure.subplots()
    for rank, curves in enumerate(recipes.curves):
        colour, width = (f"C{rank}", 1.6) if rank < NAMED else (FAINT, 0.8)
        for curve in curves:
            axes.plot(
                *zip(*curve, strict=True), color=colour, linewidth=width, alpha=len(curves) ** -0.4,
                marker="o" if len(curve) == 1 else None, zorder=3 - rank / len(recipes),
            )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(None, min(axes.get_ylim()[1], 1.005)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lines = [Line2D([], [], color=f"C{rank}") for rank in range(len(names))]
    heading = "best first" if len(recipes) <= NAMED else f"the best {NAMED} of {len(recipes)}"
    axes.legend(lines, names, title=heading, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, alignment="left")
    return figure


@with_grid
def beside_published(keys: Sequence[str], recipes: DataFrame, title: str) -> Figure:
    """Each recipe's error on the test images with its interval, and the published one, the largest of these on top."""
    lines = recipes.sort_values("published", ignore_index=True)
    figure = new_figure(9, 0.36 * len(lines) + 1.4, title)
    axes, places = figure.subplots(), np.arange(len(lines))
    error, low, high = (100 * (1 - lines[key]) for key in ("test", "test_high", "test_low"))
    axes.errorbar(error, places, xerr=[error - low, high - error], fmt="o", color=VAL, capsize=3, label="here")
    axes.plot(100 * (1 - lines.published), places, color=INK, marker="D", fillstyle="none", ls="", label="published")
    axes.set(xlabel="test error [%]", xscale="log", ylim=(len(lines) - 0.5, -0.5))
    names = lines[keys[0]] if len(keys) == 1 else map(swept_name, lines[[*keys]].to_dict("records"))
    axes.set_yticks(places, [label(name, 60) for name in names])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(lambda error, _: f"{error:g}" if f"{error:e}"[0] in "236" else "")
    axes.legend(loc="lower right")
    return figure


@with_grid
def accuracy_by_key(keys: Sequence[str], recipes: DataFrame, title: str) -> Figure:
    """Accuracy against each swept key, side by side, with a colour for each combination of the other keys' values.

    Numbers of a grid are joined by lines; words are in the order of their best accuracy. A cross is a recipe that
    diverged, at the bottom if it has no accuracy.
    """
    columns = min(len(keys), ACROSS)
    rows = ceil(len(keys) / columns)
    figure = new_figure(5.2 * columns, 4.4 * rows, title)
    for i, key in enumerate(keys, 1):
        axes = figure.add_subplot(rows, columns, i)
        _draw_against(axes, key, [other for other in keys if other != key], recipes)
    return figure


def _draw_against(axes: Axes, key: str, others: Sequence[str], recipes: DataFrame) -> None:
    series = Series([", ".join(map(label, values)) for values in recipes[[*others]].to_numpy()], recipes.index)
    values, numeric = ordered(recipes[key], recipes.accuracy)
    count = series.nunique()
    grid = len(recipes) > 0.75 * count * len(values)
    if count > NAMED or (not grid and 4 * count > len(recipes)):  # too many or too small
        series, grid = Series("", recipes.index), not others
    places = _place(axes, values, numeric, each=grid or 2 * len(values) <= len(recipes))
    names, _ = ordered(series, recipes.accuracy)
    legend = {}
    for i, name in enumerate(names):
        aside = 0.0 if numeric else 0.06 * (i - (len(names) - 1) / 2)  # so that no point hides another
        x = recipes[key][series == name].map(places).sort_values() + aside
        legend[name] = _draw_series(axes, x, recipes.loc[x.index], f"C{i}", numeric and grid and x.is_unique)
    if recipes.diverged.any():
        legend["diverged"] = Line2D([], [], color=INK, **CROSS)
    legend.pop("", None)
    axes.set(xlabel=key, ylabel="validation accuracy", ylim=(None, min(axes.get_ylim()[1], 1.0)))
    if legend:
        heading = ", ".join(other.rpartition(".")[2] for other in others) if len(names) > 1 else None
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


def _draw_series(axes: Axes, x: Series, recipes: DataFrame, colour: str, joined: bool) -> Line2D:
    """Accuracies with their intervals; returns the dots, for the legend."""
    y, diverged = recipes.accuracy, recipes.diverged
    bars = np.minimum(recipes.half_width, [y, 1 - y])  # no accuracy is below 0 or above 1
    axes.errorbar(x, y, yerr=bars, color=colour, linestyle="-" if joined else "", capsize=3)
    (dots,) = axes.plot(x[~diverged], y[~diverged], "o", markersize=4, color=colour, clip_on=False)
    axes.plot(x[diverged], y[diverged], color=colour, **CROSS)
    nowhere = x[diverged & y.isna()]
    axes.plot(nowhere, np.full(len(nowhere), 0.03), color=colour, transform=axes.get_xaxis_transform(), **CROSS)
    return dots


@styled
def heat_map(keys: Sequence[str], recipes: DataFrame, title: str) -> Figure:
    """Accuracy over two swept keys, the first down and the second across, with its number in every cell."""
    rows, columns = (ordered(recipes[key], recipes.accuracy)[0] for key in keys)
    cells = recipes.set_index([*keys]).reindex(pd.MultiIndex.from_product([rows, columns]))
    accuracy = cells.accuracy.to_numpy().reshape(len(rows), len(columns))
    figure = new_figure(max(1.1 * len(columns) + 2.4, 0.09 * len(title) + 0.4), 0.6 * len(rows) + 1.6, title)
    axes = figure.subplots()
    axes.imshow(accuracy, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), [label(column, 12) for column in columns])
    axes.set_yticks(range(len(rows)), [label(row) for row in rows])
    axes.set(xlabel=keys[1], ylabel=keys[0])
    middle = (np.nanmin(accuracy) + np.nanmax(accuracy)) / 2
    for (row, column), cell in zip(np.ndindex(accuracy.shape), cells.itertuples(), strict=True):
        lines = [] if isnan(cell.accuracy) else [f"{cell.accuracy:.1%}"]
        if cell.diverged is True:
            lines.append("diverged")
        colour = "white" if cell.accuracy <= middle else INK
        axes.text(column, row, "\n".join(lines) or "none", color=colour, ha="center", va="center")
    return figure
