"""The charts and tables of a report, from the tables of `sweeps.results`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import isfinite

import pandas as pd
from pandas import DataFrame, Series

from lenetexp.config.identity import shorten_keys, shorten_value
from lenetexp.reporting.report_page import Cell, Chart, Line, Point, Table
from lenetexp.reporting.report_page import Series as Drawn

MOST_SERIES = 8  # that report.css has colours for
MOST_TICKS = 8
RAMPS = 2  # colours of report.css whose shades stand for numbers
ACCURACY = "validation accuracy"
FORMS = {"best_val_accuracy": "{:.2%}", "best_epoch": "{:.0f}", "test_accuracy": "{:.2%}", "seconds": "{:.1f}"}
Curve = Sequence[tuple[int, float]]  # a value an epoch


def order_values(values: Series, accuracies: Series) -> tuple[list[str], bool]:
    """Return the distinct values of a column, and whether they are numbers.

    Numbers ascend; of words, the one with the best accuracy comes first.
    """
    best = accuracies.groupby(values, sort=False).max()
    numbers = pd.to_numeric(Series(best.index), errors="coerce")
    if numbers.map(isfinite).all():
        return [*best.index[numbers.argsort()]], True
    return [*best.sort_values(ascending=False, kind="stable").index], False


def name_lines(table: DataFrame, keys: Sequence[str]) -> Series:
    """Join the values of `keys` of each line into one text."""
    texts = [", ".join(shorten_value(value) for value in values) for values in table[[*keys]].to_numpy()]
    return Series(texts, table.index, dtype=object)


def build_accuracy_charts(recipes: DataFrame, keys: Sequence[str], images: str = "") -> list[Chart]:
    """Build a chart of accuracy with its interval against each key.

    There is a series for each combination of the other keys' values. Numbers of a grid are joined by lines; numbers
    that a search drew are not. Only keys that vary have a chart, unless none does. No colour has two meanings: numbers
    have shades of one colour, words hues of their own.
    """
    varying = [key for key in keys if recipes[key].nunique(dropna=False) > 1] or [*keys]
    charts: list[Chart] = []
    hues, ramps = 0, 0
    for key in varying if len(recipes) else []:
        chart = _build_accuracy_chart(recipes, key, [other for other in varying if other != key])
        if len(chart.series) > 1 and all(_is_number(series.name) for series in chart.series):
            chart, ramps = replace(chart, ramp=ramps % RAMPS), ramps + 1
        else:
            chart, hues = replace(chart, first=hues), hues + len(chart.series)
        charts.append(replace(chart, title=f"{key}, on {images}" if images else key))
    return charts


def _build_accuracy_chart(recipes: DataFrame, key: str, others: Sequence[str]) -> Chart:
    values, numeric = order_values(recipes[key], recipes.accuracy)
    names = name_lines(recipes, others)
    count = names.nunique()
    grid = len(recipes) > 0.75 * len(values) * count
    if count > MOST_SERIES or (not grid and 4 * count > len(recipes)):  # too many or too small
        names, grid = Series("", recipes.index), not others
    numbers = [float(value) for value in values] if numeric else []
    places = dict(zip(values, numbers or range(len(values)), strict=True))
    series = []
    for name in order_values(names, recipes.accuracy)[0]:
        own = recipes[names == name]
        rows = zip(own[key].map(places), own.accuracy, own.half_width, own.diverged, strict=True)
        points = [Point(float(x), _or_none(y), _or_none(half) or 0.0, bool(cross)) for x, y, half, cross in rows]
        series.append(Drawn(name, [Line(name, sorted(points, key=lambda point: point.x))]))
    means = bool(recipes.half_width.notna().any())
    return Chart(
        key, key, f"mean {ACCURACY}, 95 % interval" if means else ACCURACY, series, ", ".join(shorten_keys(others)),
        words=None if numeric else [shorten_value(value) for value in values],
        ticks=numbers if grid and 0 < len(numbers) <= MOST_TICKS else None,
        log=numeric and numbers[0] > 0 and numbers[-1] >= 8 * numbers[0],
        percent=True, dots=True, joined=numeric and grid,
    )  # fmt: skip


def build_sweep_curves(runs: DataFrame, keys: Sequence[str], others: Sequence[str], images: str = "") -> Chart:
    """Build the chart of every run's validation accuracy by epoch, with a series for the runs that share `others`."""
    rows = runs[runs.curve.map(lambda curve: isinstance(curve, list) and len(curve) > 0).astype(bool)]
    groups, names = name_lines(rows, others), name_lines(rows, keys)
    series = []
    for group in groups.unique():  # the best first, as the runs are
        own = rows.index[groups == group]
        series.append(Drawn(group or "all runs", [_make_line(names[i], rows.curve[i]) for i in own]))
    heading, on = ", ".join(shorten_keys(others)), f" on {images}" if images else ""
    return Chart(f"Every run{on}, by epoch", "epoch", ACCURACY, series, heading, percent=True)


def build_run_curves(histories: Mapping[str, Curve]) -> list[Chart]:
    """Build the charts of one run's accuracy and loss by epoch, from its metrics' histories."""
    charts = []
    for what, unit, percent in (("accuracy", "", True), ("loss", " (per example)", False)):
        values = {word: histories.get(f"{key}/{what}") for word, key in (("validation", "val"), ("training", "train"))}
        series = [Drawn(word, [_make_line(word, curve)]) for word, curve in values.items() if curve]
        charts.append(Chart(what.capitalize(), "epoch", f"{what}{unit}", series, percent=percent))
    return [chart for chart in charts if chart.series]


def build_runs_table(runs: DataFrame, keys: Sequence[str], endings: Sequence[Cell]) -> Table:
    """Build a table with a line for each run.

    Args:
        runs: The runs.
        keys: The swept keys.
        endings: How each run ended, in words.
    """
    columns = [*shorten_keys(keys), "validation", "epoch", "test", "seconds", "ended", "why", "run"]
    lines = []
    for values, has_values, cell in zip(runs[[*keys]].to_numpy(), runs.to_dict("records"), endings, strict=True):
        ending = Cell(f"{cell.text} (before)", kind=cell.kind) if has_values["before"] else cell
        numbers = [_make_cell(has_values[name], form) for name, form in FORMS.items()]
        texts = [
            Cell("" if isinstance(text, float) or text == cell.text else str(text or ""))
            for text in (has_values["reason"], has_values["run_id"])
        ]
        lines.append([*map(_format_setting, values), *numbers, ending, *texts])
    return _drop_empty_columns(Table("Every run, the best first", columns, lines))


def build_means_table(recipes: DataFrame, keys: Sequence[str]) -> Table:
    """Build a table with a line for each combination of values of `keys`."""
    columns = [*shorten_keys(keys), "runs", "validation", "± (95 %)", "deviation", "test", "other outcomes"]
    lines = []
    for values, has_values in zip(recipes[[*keys]].to_numpy(), recipes.to_dict("records"), strict=True):
        numbers = [_make_cell(has_values[name], "{:.2%}") for name in ("accuracy", "half_width", "deviation", "test")]
        lines.append([*map(_format_setting, values), Cell(has_values["runs"]), *numbers, Cell(has_values["ends"])])
    note = "Means over the seeds; ± is half of the 95 % interval of the mean, by Student's t."
    return _drop_empty_columns(Table("Every setting, the best mean first", columns, lines, note))


def _drop_empty_columns(table: Table) -> Table:
    """Return the table without columns that are empty."""
    columns = [i for i, column in enumerate(zip(*table.rows, strict=True)) if any(cell.text for cell in column)]
    lines = [[row[i] for i in columns] for row in table.rows]
    return Table(table.title, [table.columns[i] for i in columns], lines, table.note)


def _format_setting(value: str) -> Cell:
    with suppress(ValueError):
        return Cell(shorten_value(value), _or_none(float(value)))
    return Cell(shorten_value(value))


def _make_cell(number: float, form: str) -> Cell:
    return Cell("") if _or_none(number) is None else Cell(form.format(number), float(number))


def _make_line(name: str, curve: Curve) -> Line:
    return Line(name, [Point(step, value) for step, value in curve if isfinite(value)])


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        return isfinite(float(text))
    return False


def _or_none(number: float) -> float | None:
    return float(number) if isfinite(number) else None
