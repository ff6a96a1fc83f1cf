"""The pictures of a sweep."""

import re
from collections.abc import Sequence
from itertools import cycle
from math import ceil, isnan
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series

from lenetexp.config.identity import format_swept, is_named, shorten_keys
from lenetexp.reporting.report_parts import order_values
from lenetexp.reporting.style import FAINT, INK, VAL, make_figure, save_figures, shorten_label, styled, with_grid

NAMED = 10  # recipes that get a colour, of matplotlib's C0 to C9, and a name in the legend
ACROSS = 3  # keys beside each other
CROSS: dict[str, Any] = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "linestyle": ""}


def draw_sweep(recipes: DataFrame, keys: Sequence[str], folder: Path) -> None:
    """Write the pictures of `sweeps.results.group_recipes`, and delete those that an earlier command left.

    Each set of images has pictures of its own, because accuracies on different ones cannot be compared.
    """
    others = [key for key in keys if key != "seed"]
    sets = [one for one in recipes.groupby("images", sort=False) if one[1].accuracy.notna().any()]
    figures: dict[str, Figure] = {}
    for number, (images, lines) in enumerate(sets, 1):
        several = len(sets) > 1
        suffix = f"_{number}_{re.sub(r'[^0-9A-Za-z]+', '_', str(images))}" if several else ""
        names = _draw_figures(lines.reset_index(drop=True), others, f" on {images}" if several else "")
        figures |= {f"{name}{suffix}": figure for name, figure in names.items()}
    save_figures(figures, folder)
    for path in {*folder.glob("*.png")} - {folder / f"{name}.png" for name in figures}:
        path.unlink()


def _draw_figures(recipes: DataFrame, keys: Sequence[str], on: str) -> dict[str, Figure]:
    """Draw the recipes on one set of images, by the keys in which they differ."""
    varying = [key for key in keys if recipes[key].nunique(dropna=False) > 1]
    recipes_with_results = [key for key in varying if is_named(key)]
    settings = (
        " and ".join(recipes_with_results) if len(recipes_with_results) < 4 else f"{len(recipes_with_results)} settings"
    )
    by = f"{on} by {settings}" if recipes_with_results else on
    title = f"{'Mean best' if has_means(recipes) else 'Best'} validation accuracy{by}"
    figures = {"learning_curves": draw_sweep_curves(varying, recipes, f"Learning curves{by}")}
    if varying:
        figures["accuracy"] = draw_accuracy_by_key(varying, recipes, title)
    published = recipes[recipes.published.notna()]
    if len(published) and keys:
        figures["published"] = draw_beside_published(varying or keys, published, "Test error, and as published")
    counts = recipes[varying].nunique()
    # If most pairs were tried: the trials of a search would leave the map empty.
    if len(counts) == 2 and len(recipes) > 0.75 * counts.prod():
        figures["heat_map"] = draw_heat_map(varying, recipes, title)
    return figures


def has_means(recipes: DataFrame) -> bool:
    """Return whether some accuracies are means over several seeds."""
    return bool(recipes.half_width.notna().any())


@with_grid
def draw_sweep_curves(keys: Sequence[str], recipes: DataFrame, title: str) -> Figure:
    """Draw every run's validation accuracy by epoch, with the best recipes in colour, on top and in the legend."""
    best = recipes[[*keys]].head(NAMED).to_dict("records")
    names = [fill(shorten_label(format_swept(values) or "all runs", 400), 80) for values in best]
    lines_of_names = [line for name in names for line in name.split("\n")]
    figure = make_figure(7 + 0.07 * max(map(len, lines_of_names)), max(5, 0.16 * len(lines_of_names) + 1), title)
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
def draw_beside_published(keys: Sequence[str], recipes: DataFrame, title: str) -> Figure:
    """Draw each recipe's test error with its interval beside the published one, the largest of these on top."""
    lines = recipes.sort_values("published", ignore_index=True)
    figure = make_figure(9, 0.36 * len(lines) + 1.4, title)
    axes, places = figure.subplots(), np.arange(len(lines))
    error, low, high = (100 * (1 - lines[key]) for key in ("test", "test_high", "test_low"))
    bars = [error - low, high - error]
    axes.errorbar(error, places, xerr=bars, fmt="o", color=VAL, capsize=3, label="here, 95 % interval")
    axes.plot(100 * (1 - lines.published), places, color=INK, marker="D", fillstyle="none", ls="", label="published")
    axes.set(xlabel="test error [%]", xscale="log", ylim=(len(lines) - 0.5, -0.5))
    names = lines[keys[0]] if len(keys) == 1 else map(format_swept, lines[[*keys]].to_dict("records"))
    axes.set_yticks(places, [shorten_label(name, 60) for name in names])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(lambda error, _: f"{error:g}" if f"{error:e}"[0] in "236" else "")
    axes.legend(loc="lower right")
    return figure


@with_grid
def draw_accuracy_by_key(keys: Sequence[str], recipes: DataFrame, title: str) -> Figure:
    """Draw accuracy against each swept key, with a colour for each combination of the other keys' values.

    Numbers of a grid are joined by lines; words are in the order of their best accuracy. A cross is a recipe that
    diverged, at the bottom if it has no accuracy.
    """
    columns = min(len(keys), ACROSS)
    rows = ceil(len(keys) / columns)
    figure = make_figure(5.2 * columns, 4.4 * rows, title)
    palette = Palette()
    for i, key in enumerate(keys, 1):
        axes = figure.add_subplot(rows, columns, i)
        _draw_against(axes, key, [other for other in keys if other != key], recipes, palette)
    return figure


class Palette:
    """Colours of which none has two meanings in a figure: words have hues, numbers shades of one colour."""

    def __init__(self) -> None:
        hues = [colormaps["tab10"](i) for i in range(10)] + [colormaps["tab20b"](i) for i in range(20)]
        self.hues = cycle(map(to_hex, hues))
        self.ramps = cycle([colormaps["Purples"], colormaps["Greys"]])

    def assign_colours(self, names: Sequence[str], numeric: bool) -> list[str]:
        """Return the colours of the series with these names."""
        if numeric and len(names) > 1:
            ramp = next(self.ramps)
            return [to_hex(ramp(share)) for share in np.linspace(0.45, 1, len(names))]
        return [next(self.hues) for _ in names]


def _draw_against(axes: Axes, key: str, others: Sequence[str], recipes: DataFrame, palette: Palette) -> None:
    series = Series([", ".join(map(shorten_label, values)) for values in recipes[[*others]].to_numpy()], recipes.index)
    values, numeric = order_values(recipes[key], recipes.accuracy)
    count = series.nunique()
    grid = len(recipes) > 0.75 * count * len(values)
    if count > NAMED or (not grid and 4 * count > len(recipes)):  # too many or too small
        series, grid = Series("", recipes.index), not others
    places = _set_scale(axes, values, numeric, each=grid or 2 * len(values) <= len(recipes))
    names, ascending = order_values(series, recipes.accuracy)
    means = has_means(recipes)
    legend = {}
    for i, (name, colour) in enumerate(zip(names, palette.assign_colours(names, ascending), strict=True)):
        x = recipes[key][series == name].map(places).sort_values()
        if means or not numeric:  # so that no point and no bar hides another
            width = 0.012 * np.ptp(axes.xaxis.get_transform().transform([*places.values()])) if numeric else 0.06
            x = _shift_aside(axes, x, (i - (len(names) - 1) / 2) * width)
        legend[name] = _draw_series(axes, x, recipes.loc[x.index], colour, numeric and grid and x.is_unique)
    if recipes.diverged.any():
        legend["diverged"] = Line2D([], [], color=INK, **CROSS)
    legend.pop("", None)
    what = "mean validation accuracy, 95 % interval" if means else "validation accuracy"
    axes.set(xlabel=key, ylabel=what, ylim=(None, min(axes.get_ylim()[1], 1.0)))
    if legend:
        heading = ", ".join(shorten_keys(others)) if len(names) > 1 else None
        axes.legend(list(legend.values()), list(legend), title=heading, fontsize=8)


def _shift_aside(axes: Axes, x: Series, width: float) -> Series:
    """Move places on the x axis by a width on its scale, which may be logarithmic."""
    scale = axes.xaxis.get_transform()
    return Series(scale.inverted().transform(scale.transform(x.to_numpy(dtype=float)) + width), x.index)


def _set_scale(axes: Axes, values: Sequence[str], numeric: bool, each: bool) -> dict[str, float]:
    """Set scale and ticks of the x axis, for few numbers one each. Return where every value is."""
    places = [float(value) for value in values] if numeric else [float(i) for i in range(len(values))]
    positive = [place for place in places if place > 0]
    if numeric and places[0] >= 0 and positive and places[-1] >= 8 * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0], subs=range(2, 10))  # a logarithm with room for a zero
        axes.xaxis.set_major_formatter("{x:g}")
    if not numeric or (each and len(values) <= 8):
        names = [shorten_label(value) for value in values]
        turned: dict[str, Any] = {"fontsize": 8, "rotation": 30, "rotation_mode": "anchor", "ha": "right"}
        axes.set_xticks(places, names, **turned if sum(map(len, names)) > 40 else {})
    return dict(zip(values, places, strict=True))


def _draw_series(axes: Axes, x: Series, recipes: DataFrame, colour: str, joined: bool) -> Line2D:
    """Draw accuracies with their intervals. Return the dots, for the legend."""
    y, diverged = recipes.accuracy, recipes.diverged
    bars = np.minimum(recipes.half_width, [y, 1 - y])  # no accuracy is below 0 or above 1
    axes.errorbar(x, y, yerr=bars, color=colour, linestyle="-" if joined else "", capsize=3)
    (dots,) = axes.plot(x[~diverged], y[~diverged], "o", markersize=4, color=colour, clip_on=False)
    axes.plot(x[diverged], y[diverged], color=colour, **CROSS)
    nowhere = x[diverged & y.isna()]
    axes.plot(nowhere, np.full(len(nowhere), 0.03), color=colour, transform=axes.get_xaxis_transform(), **CROSS)
    return dots


@styled
def draw_heat_map(keys: Sequence[str], recipes: DataFrame, title: str) -> Figure:
    """Draw accuracy over two swept keys, the first down and the second across, with its number in every cell."""
    rows, columns = (order_values(recipes[key], recipes.accuracy)[0] for key in keys)
    cells = recipes.set_index([*keys]).reindex(pd.MultiIndex.from_product([rows, columns]))
    accuracy = cells.accuracy.to_numpy().reshape(len(rows), len(columns))
    figure = make_figure(max(1.1 * len(columns) + 2.4, 0.09 * len(title) + 0.4), 0.6 * len(rows) + 1.6, title)
    axes = figure.subplots()
    axes.imshow(accuracy, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), [shorten_label(column, 12) for column in columns])
    axes.set_yticks(range(len(rows)), [shorten_label(row) for row in rows])
    axes.set(xlabel=keys[1], ylabel=keys[0])
    middle = (np.nanmin(accuracy) + np.nanmax(accuracy)) / 2
    for (row, column), cell in zip(np.ndindex(accuracy.shape), cells.itertuples(), strict=True):
        lines = [] if isnan(cell.accuracy) else [f"{cell.accuracy:.1%}"]
        if cell.diverged is True:
            lines.append("diverged")
        colour = "white" if cell.accuracy <= middle else INK
        axes.text(column, row, "\n".join(lines) or "none", color=colour, ha="center", va="center")
    return figure
