"""Pictures of a sweep show every recipe at its place, whatever the names; no picture is cut off by any."""

import subprocess
import sys
from math import nan
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color, to_hex
from matplotlib.text import Text
from pandas import DataFrame

from figure_texts import legend, words
from lenetexp.reporting import run_figures, style, sweep_figures
from lenetexp.reporting.sweep_figures import draw_accuracy_by_key, draw_heat_map, draw_sweep

AWKWARD = [f"/{'a_long_folder/' * 20}{i}" for i in range(3)] + ["$\\a$", "$"]


def recipe(accuracy: float, half_width: float = nan, diverged: bool = False, **values: str) -> dict[str, Any]:
    """A line of the table that sweeps are drawn from."""
    curves = [] if np.isnan(accuracy) else [[(1, 0.1), (2, accuracy)]]
    row = {"accuracy": accuracy, "half_width": half_width, "diverged": diverged, "curves": curves, "published": nan}
    return {**values, **row, "images": "digits"}


def dots(axes: Axes) -> set[tuple[float, float]]:
    """Where there is a dot, whatever its colour."""
    found = [line for line in axes.lines if line.get_marker() == "o"]
    return {(float(x), float(y)) for line in found for x, y in zip(*line.get_data(), strict=True)}


def crosses(axes: Axes) -> list[tuple[float, float]]:
    found = [line for line in axes.lines if line.get_marker() == "x"]
    return [(float(x), float(y)) for line in found for x, y in zip(*line.get_data(), strict=True) if not np.isnan(y)]


def joined(axes: Axes) -> bool:
    return any(line.get_linestyle() == "-" for line in axes.lines)


def test_accuracy_of_a_grid_is_drawn_against_each_key() -> None:
    keys = ["optimizer.lr", "model.activation"]
    table = {("0.1", "relu"): 0.5, ("0.01", "relu"): 0.6, ("0.1", "tanh"): 0.9, ("0.01", "tanh"): 0.8}
    grid = DataFrame([recipe(accuracy, **dict(zip(keys, pair, strict=True))) for pair, accuracy in table.items()])
    rates, activations = draw_accuracy_by_key(keys, grid, "t").axes
    assert (rates.get_xlabel(), activations.get_xlabel()) == tuple(keys)
    assert dots(rates) == {(float(lr), accuracy) for (lr, _), accuracy in table.items()}
    assert words(rates.get_xticklabels()) == ["0.01", "0.1"] and rates.get_xscale() == "symlog"
    assert words(activations.get_xticklabels()) == ["tanh", "relu"], "the best first"
    assert (legend(rates), legend(activations)) == (["tanh", "relu"], ["0.01", "0.1"])
    assert rates.get_legend().get_title().get_text() == "activation"
    assert joined(rates) and not joined(activations), "only numbers are joined"
    assert {round(x) for x, y in dots(activations) if y in (0.9, 0.8)} == {0}


def test_many_keys_stand_in_rows_and_in_the_legend_in_full(tmp_path: Path) -> None:
    keys = [f"group.a_key_with_a_name_{i}" for i in range(8)]
    recipes = DataFrame([recipe(0.5 + i / 10, **{key: f"{key}{i}" for key in keys}) for i in range(2)])
    figure = draw_accuracy_by_key(keys, recipes, "t")
    assert [axes.get_xlabel() for axes in figure.axes] == keys
    width, height = figure.get_size_inches()
    assert width < 2 * height, "not a strip"
    (axes,) = sweep_figures.draw_sweep_curves(keys, recipes, "t").axes
    assert all(f"a_key_with_a_name_{i}=" in legend(axes)[0] for i in range(8))


def test_seeds_have_intervals_within_0_and_1() -> None:
    recipes = DataFrame([recipe(0.98, 0.05, lr="0.1"), recipe(0.5, 0.1, lr="0.2")])
    (axes,) = draw_accuracy_by_key(["lr"], recipes, "t").axes
    (bars,) = (segments.get_segments() for segments in axes.collections)
    assert [bar[:, 1].tolist() for bar in bars] == [[pytest.approx(0.93), 1.0], [0.4, 0.6]]


def test_intervals_of_several_lines_stand_beside_each_other_and_say_what_they_are(tmp_path: Path) -> None:
    recipes = DataFrame([recipe(0.9, 0.05, lr=lr, act=act) for lr in ("0.01", "0.1") for act in "ab"])
    figure = draw_accuracy_by_key(["lr", "act"], recipes, "t")
    for axes in figure.axes:
        places = {round(bar[0, 0], 6) for bars in axes.collections for bar in bars.get_segments()}
        assert len(places) == 4 and axes.get_ylabel() == "mean validation accuracy, 95 % interval"
    (_, heat) = (sweep_figures._draw_figures(recipes, ["lr", "act"], "")[name] for name in ("accuracy", "heat_map"))
    assert heat.get_suptitle() == "Mean best validation accuracy by lr and act"


def test_no_colour_means_two_settings_and_numbers_have_shades() -> None:
    grid = DataFrame([recipe(0.5, lr=lr, act=act, net=net) for lr in ("1", "2") for act in "ab" for net in "xyz"])
    for keys in (["lr", "act"], ["act", "net"]):
        rows = grid.drop_duplicates(keys)
        colours = [
            {*map(to_hex, [line.get_color() for line in axes.lines])}
            for axes in draw_accuracy_by_key(keys, rows, "t").axes
        ]
        assert len(colours) == 2 and not colours[0] & colours[1]


def test_titles_name_what_varies_and_no_setting_of_the_arithmetic(tmp_path: Path) -> None:
    recipes = DataFrame([recipe(0.5, **{"lr": lr, "epochs": "5", "device.threads": lr}) for lr in ("1", "2")])
    figures = sweep_figures._draw_figures(recipes, ["lr", "epochs", "device.threads"], " on digits")
    assert figures["accuracy"].get_suptitle() == "Best validation accuracy on digits by lr"


def test_a_diverged_recipe_is_a_cross_even_without_an_accuracy() -> None:
    recipes = [recipe(0.9, lr="0.1"), recipe(0.4, lr="1", diverged=True), recipe(nan, lr="10", diverged=True)]
    (axes,) = draw_accuracy_by_key(["lr"], DataFrame(recipes), "t").axes
    assert dots(axes) == {(0.1, 0.9)}
    assert crosses(axes) == [(1.0, 0.4), (10.0, 0.03)], "the last just above the bottom"
    assert legend(axes) == ["diverged"]


def test_a_recipe_that_only_failed_leaves_a_gap() -> None:
    recipes = DataFrame([recipe(0.9, lr="0.1"), recipe(nan, lr="0.2")])
    (axes,) = draw_accuracy_by_key(["lr"], recipes, "t").axes
    assert {place for place in dots(axes) if not np.isnan(place[1])} == {(0.1, 0.9)}
    assert not crosses(axes) and axes.get_legend() is None


def test_trials_of_a_search_are_neither_joined_nor_a_map(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    draws = [
        recipe(1 - i / 60, lr=repr(10.0 ** rng.uniform(-4, 0)), size=str(2 ** rng.integers(3, 7))) for i in range(30)
    ]
    trials = DataFrame(draws)
    rates, sizes = draw_accuracy_by_key(["lr", "size"], trials, "t").axes
    assert len(dots(rates)) == len(dots(sizes)) == 30 and not joined(rates) and not joined(sizes)
    assert words(sizes.get_xticklabels()) == ["8", "16", "32", "64"], "values that repeat have a tick each"
    assert legend(rates) == ["8", "16", "32", "64"] and sizes.get_legend() is None, "30 rates have no colours"
    draw_sweep(trials, ["lr", "size"], tmp_path)
    assert not (tmp_path / "heat_map.png").exists()


def test_zero_has_a_place_of_its_own_beside_a_logarithmic_scale() -> None:
    decays = ["0", "0.0001", "0.001", "0.01"]
    figure = draw_accuracy_by_key(["decay"], DataFrame([recipe(0.9, decay=decay) for decay in decays]), "t")
    (axes,) = figure.axes
    places = axes.transData.transform([(float(decay), 0.9) for decay in decays])[:, 0]
    assert np.diff(places).min() > 50, "pixels between neighbours"


def test_every_word_has_a_tick_and_infinity_is_a_word() -> None:
    names = [f"torch.optim.Optimizer{i}" for i in range(12)]
    recipes = DataFrame([recipe(1 - i / 20, o=name) for i, name in enumerate(names)])
    (axes,) = draw_accuracy_by_key(["o"], recipes, "t").axes
    assert words(axes.get_xticklabels()) == names
    recipes = DataFrame([recipe(0.5, clip="1.0"), recipe(0.7, clip="inf")])
    (axes,) = draw_accuracy_by_key(["clip"], recipes, "t").axes
    assert words(axes.get_xticklabels()) == ["inf", "1.0"]


def test_the_heat_map_has_a_number_in_every_cell() -> None:
    recipes = [recipe(0.9, lr="0.01", act="tanh"), recipe(0.5, lr="0.1", act="tanh", diverged=True)]
    recipes += [recipe(nan, lr="0.01", act="relu", diverged=True), recipe(0.7, lr="1", act="relu")]
    (axes,) = draw_heat_map(["lr", "act"], DataFrame(recipes), "t").axes
    assert words(axes.get_yticklabels()) == ["0.01", "0.1", "1"], "numbers in their order"
    assert words(axes.get_xticklabels()) == ["tanh", "relu"], "words the best first"
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert [cells[0, 0], cells[1, 0], cells[0, 1], cells[2, 1]] == ["90.0%", "50.0%\ndiverged", "diverged", "70.0%"]
    assert cells[1, 1] == cells[2, 0] == "none"
    accuracies = axes.images[0].get_array()
    assert (accuracies[0, 0], accuracies[2, 1]) == (0.9, 0.7) and np.ma.is_masked(accuracies[0, 1])


def test_the_best_recipes_have_a_colour_and_a_name() -> None:
    curves = [[[(1, 0.1), (2, 0.9 - i / 100)], [(1, 0.2)]] for i in range(40)]
    recipes = DataFrame({"optimizer._target_": [f"o{i}" for i in range(40)], "curves": curves})
    (axes,) = sweep_figures.draw_sweep_curves(["optimizer._target_"], recipes, "t").axes
    assert axes.get_legend().get_title().get_text() == "the best 10 of 40"
    assert legend(axes) == [f"optimizer=o{i}" for i in range(10)]
    drawn = [[tuple(place) for place in line.get_xydata()] for line in axes.lines]
    assert drawn == [curve for recipe in curves for curve in recipe], "of every seed"
    assert [same_color(line.get_color(), style.FAINT) for line in axes.lines] == [False] * 20 + [True] * 60
    handles = axes.get_legend().get_lines()
    assert [line.get_color() for line in handles] == [line.get_color() for line in axes.lines[:20:2]]
    assert {line.get_marker() for line in axes.lines[1::2]} == {"o"}, "a single epoch is visible"


@pytest.mark.parametrize(
    ("keys", "recipes", "files"),
    [
        (["seed"], [recipe(0.5)], ["learning_curves"]),
        (["lr", "seed"], [recipe(0.5, lr="1"), recipe(0.6, lr="2")], ["accuracy", "learning_curves"]),
        (
            ["lr", "act"],
            [recipe(0.5, lr=lr, act=act) for lr in "12" for act in "ab"],
            ["accuracy", "heat_map", "learning_curves"],
        ),
    ],
)
def test_a_sweep_has_the_pictures_of_its_keys_and_none_of_an_earlier_command(
    tmp_path: Path, keys: list[str], recipes: list[dict[str, Any]], files: list[str]
) -> None:
    for name in ("heat_map.png", "accuracy.png", "note.txt"):
        (tmp_path / name).write_text("old")
    draw_sweep(DataFrame(recipes), keys, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{name}.png" for name in files), "note.txt"]
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in files)


def test_pictures_take_any_names(tmp_path: Path) -> None:
    """Long paths, and what matplotlib would read as a formula."""
    keys = ["dataset.root", "model.$how"]
    grid = DataFrame([recipe(0.5, **{keys[0]: a, keys[1]: b}) for a in AWKWARD for b in AWKWARD])
    images, sure = np.zeros((5, 1, 28, 28), dtype=np.uint8), [0.9] * 5
    figures = {
        "accuracy": draw_accuracy_by_key(keys, grid, "$\\a$"),
        "heat_map": draw_heat_map(keys, grid, "$\\a$"),
        "curves": sweep_figures.draw_sweep_curves(keys, grid, "$\\a$"),
        "confusion": run_figures.draw_confusion_matrix(np.eye(5, dtype=np.int64), AWKWARD, "$\\a$"),
        "predictions": run_figures.draw_predictions(images, AWKWARD, AWKWARD[::-1], sure, "$\\a$"),
        "photos": run_figures.draw_prepared_photos(
            AWKWARD, [np.zeros((9, 9, 3), np.uint8)] * 5, images, AWKWARD, "$\\a$"
        ),
    }
    style.save_figures(figures, tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(figures)
    for name, figure in figures.items():
        dollars = [text for text in figure.findobj(Text) if "$" in text.get_text()]
        assert dollars and not any(text.get_parse_math() for text in dollars), name
        figure.set_dpi(110)  # as it was saved: the size of letters depends on it
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 > -0.01 and box.y0 > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01, (
            f"{name} is cut off"
        )
    assert matplotlib.rcParams["text.parse_math"], "others' pictures in this process are left alone"


def test_a_sweep_is_drawn_without_torch() -> None:
    code = "import sys, lenetexp.reporting.sweep_figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
