"""Pictures show the numbers that they are given, whatever the names, and however few or many there are."""

import subprocess
import sys
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from pandas import DataFrame
from torch import nn

from helpers import PlainLeNet, make_data
from lenetexp.reporting import run_figures, style, sweep_figures
from lenetexp.reporting.sweep_figures import accuracy_by_key, draw_sweep, heat_map
from lenetexp.training.evaluate import Scores
from lenetexp.training.state import EpochRecord

AWKWARD = [f"/{'a_long_folder/' * 20}{i}" for i in range(3)] + ["$\\a$", "$"]


def history(*val_accuracies: float) -> list[EpochRecord]:
    """Epochs with these validation accuracies, and other numbers that differ from them and from each other."""
    return [
        EpochRecord(epoch, 2 / epoch, accuracy - 0.1, 1 / epoch, accuracy, 0.1, 1000.0, True)
        for epoch, accuracy in enumerate(val_accuracies, start=1)
    ]


def scores(labels: Sequence[int], predicted: Sequence[int], sure: Sequence[float]) -> Scores:
    """Scores of ten classes; a larger `sure` is a greater confidence."""
    return Scores(
        nn.functional.one_hot(torch.tensor(predicted), 10) * torch.tensor(sure)[:, None], torch.tensor(labels)
    )


def words(texts: Sequence[Text]) -> list[str]:
    return [text.get_text() for text in texts]


def legend(axes: Axes) -> list[str]:
    return words(axes.get_legend().get_texts())


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def red(texts: Sequence[Text]) -> int:
    return sum(same_color(text.get_color(), style.WRONG) for text in texts)


def recipe(accuracy: float, half_width: float = nan, diverged: bool = False, **values: str) -> dict[str, Any]:
    """A line of the table that sweeps are drawn from."""
    curves = [] if np.isnan(accuracy) else [[(1, 0.1), (2, accuracy)]]
    row = {"accuracy": accuracy, "half_width": half_width, "diverged": diverged, "curves": curves, "published": nan}
    return {**values, **row}


def dots(axes: Axes) -> set[tuple[float, float]]:
    """Where there is a dot, whatever its colour."""
    found = [line for line in axes.lines if line.get_marker() == "o"]
    return {(float(x), float(y)) for line in found for x, y in zip(*line.get_data(), strict=True)}


def crosses(axes: Axes) -> list[tuple[float, float]]:
    found = [line for line in axes.lines if line.get_marker() == "x"]
    return [(float(x), float(y)) for line in found for x, y in zip(*line.get_data(), strict=True) if not np.isnan(y)]


def joined(axes: Axes) -> bool:
    return any(line.get_linestyle() == "-" for line in axes.lines)


# A run


def test_learning_curves_show_every_epoch_and_the_best_one() -> None:
    epochs = history(0.5, 0.9387, 0.9)
    losses, accuracies = run_figures.learning_curves(epochs, epochs[1], 10, "LeNet on digits").axes
    for axes, train, val in (
        (losses, [2, 1, 2 / 3], [1, 1 / 2, 1 / 3]),
        (accuracies, [0.4, 0.8387, 0.8], [0.5, 0.9387, 0.9]),
    ):
        training, validation, best = axes.lines[:3]
        np.testing.assert_allclose(training.get_xydata(), np.transpose([[1, 2, 3], train]))
        np.testing.assert_allclose(validation.get_xydata(), np.transpose([[1, 2, 3], val]))
        assert set(best.get_xdata()) == {2}
    assert legend(accuracies) == ["training", "validation", "best epoch: 93.87%", "chance: 10.0%"]
    assert set(accuracies.lines[3].get_ydata()) == {0.1} and len(losses.lines) == 3


def test_a_single_epoch_is_a_point_inside_the_axes() -> None:
    epochs = history(0.7)
    for axes in run_figures.learning_curves(epochs, epochs[0], 10, "t").axes:
        assert all(line.get_marker() == "o" for line in axes.lines[:2])
        low, high = axes.get_xlim()
        assert low < 1 < high
        assert axes.get_ylim()[0] <= min(axes.lines[1].get_ydata()) <= axes.get_ylim()[1]


def test_the_confusion_matrix_shows_every_count_and_mistakes_in_red() -> None:
    counts = np.diag([100, 50, 99, 0])
    counts[2, 0], counts[1, 3] = 1, 50
    (axes,) = run_figures.confusion_matrix(counts, ["cat", "dog", "emu", "fox"], "t").axes
    shown = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert shown == {(0, 0): "100", (1, 1): "50", (2, 2): "99", (2, 0): "1", (1, 3): "50"}
    assert words(axes.get_yticklabels()) == words(axes.get_xticklabels()) == ["cat", "dog", "emu", "fox"]
    colours = axes.images[0].get_array()
    np.testing.assert_allclose(colours[0, 0], to_rgb(style.VAL))
    np.testing.assert_allclose(colours[3, 3], 1)  # a class without examples is white
    for row, column in ((2, 0), (1, 3)):
        r, g, b = colours[row, column]
        assert r > g + 0.05 and r > b + 0.05, "even one in a hundred can be seen"


def test_a_confusion_matrix_of_many_classes_has_names_but_no_counts() -> None:
    names = [f"c{i}" for i in range(47)]
    (axes,) = run_figures.confusion_matrix(np.eye(47, dtype=np.int64), names, "t").axes
    assert words(axes.get_xticklabels()) == names and not axes.texts


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (0, "0 of 60 test images misclassified"),
        (7, "7 of 60 test images misclassified"),
        (40, "The 25 most confident of 40 misclassified test images"),
        (54, "A net at chance (10.0%): 25 of its 54 mistakes"),
    ],
)
def test_mistakes_are_the_misclassified_test_images(wrong: int, expected: str) -> None:
    data = make_data(60)
    labels = data.test.labels.tolist()
    predicted = [(label + 1) % 10 if i < wrong else label for i, label in enumerate(labels)]
    figure = run_figures.mistakes(data, scores(labels, predicted, [1 + i / 10 for i in range(60)]))
    assert title(figure) == expected
    (axes,) = figure.axes
    most_confident = list(range(wrong))[::-1][:25]
    assert len(axes.images) == len(axes.patches) == red(axes.texts) == len(most_confident)
    for i, image, text in zip(most_confident, axes.images, axes.texts, strict=True):
        assert np.array_equal(image.get_array()[..., 0], data.test.images[i, 0])
        assert text.get_text().startswith(f"{predicted[i]} (") and text.get_text().endswith(f"\nis {labels[i]}")


def test_predictions_mark_only_mistakes() -> None:
    images = make_data(3).test.images.numpy()
    figure = run_figures.predictions(images, ["a", "b", "c"], ["a", "x", "c"], [0.5, 0.75, 1.0])
    assert title(figure) == "1 of 3 images misclassified"
    (axes,) = figure.axes
    assert words(axes.texts) == ["a (50%)", "b (75%)\nis x", "c (100%)"]
    assert red(axes.texts) == len(axes.patches) == 1


def test_photos_stand_beside_their_prepared_form() -> None:
    photos = [np.full(shape, i, dtype=np.uint8) for i, shape in enumerate(((400, 300, 3), (28, 90, 3)))]
    prepared = make_data(2).test.images.numpy()
    figure = run_figures.prepared_photos(["a.jpg", f"{'long' * 9}.png"], photos, prepared, ["7 (99%)", "1 (20%)"], "t")
    (axes,) = figure.axes
    shown = [image.get_array() for image in axes.images]
    assert np.array_equal(shown[0], photos[0]) and np.array_equal(shown[2], photos[1])
    assert np.array_equal(shown[1][..., 2], prepared[0, 0]) and np.array_equal(shown[3][..., 2], prepared[1, 0])
    assert words(axes.texts) == ["a.jpg", "7 (99%)", "longlongl…long.png", "1 (20%)"]
    left, right, bottom, top = axes.images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(300 / 400), "not distorted"


def test_filters_show_weights_and_responses_on_scales_around_zero() -> None:
    layer, image = nn.Conv2d(3, 12, 5), torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    sheet, weights, responses = run_figures.filters(layer, image, "t").axes
    numbers = range(1, 9)
    expected = ["", *(f"kernel {i}" for i in numbers), "input", *(f"map {i}" for i in numbers)]
    assert words(sheet.texts) == expected
    means, maps = layer.weight[:8].mean(1).detach(), layer(image[None] / 255)[0, :8].detach()
    for axes, values, place in ((weights, means, 1), (responses, maps, 10)):
        low, high = axes.get_ylim()
        assert (low, high) == pytest.approx((-float(values.abs().max()), float(values.abs().max())))
        colours = np.stack([shown.get_array() for shown in sheet.images[place : place + 8]])
        positive, negative = values.numpy() > 0.2 * high, values.numpy() < 0.2 * low
        assert (colours[positive][:, 0] > colours[positive][:, 2]).all(), "red above zero"
        assert (colours[negative][:, 0] < colours[negative][:, 2]).all(), "blue below zero"


def test_a_run_has_four_pictures_and_without_a_convolution_three(tmp_path: Path) -> None:
    data, epochs = make_data(20), history(0.5)
    labels = data.test.labels.tolist()
    test = scores(labels, [0] * 20, [1.0] * 20)
    for name, model in {"conv": PlainLeNet(), "flat": nn.Linear(784, 10), "colour": nn.Conv2d(3, 6, 5)}.items():
        run_figures.draw_run(model, data, test, epochs, epochs[0], [], "lr=0.1", tmp_path / name)
    three = {"learning_curves.png", "confusion_matrix.png", "mistakes.png"}
    for name, files in {"conv": {*three, "filters.png"}, "flat": three, "colour": three}.items():
        assert {path.name for path in (tmp_path / name).iterdir()} == files


# A sweep


def test_accuracy_of_a_grid_is_drawn_against_each_key() -> None:
    keys = ["optimizer.lr", "model.activation"]
    table = {("0.1", "relu"): 0.5, ("0.01", "relu"): 0.6, ("0.1", "tanh"): 0.9, ("0.01", "tanh"): 0.8}
    grid = DataFrame([recipe(accuracy, **dict(zip(keys, pair, strict=True))) for pair, accuracy in table.items()])
    rates, activations = accuracy_by_key(keys, grid, "t").axes
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
    figure = accuracy_by_key(keys, recipes, "t")
    assert [axes.get_xlabel() for axes in figure.axes] == keys
    width, height = figure.get_size_inches()
    assert width < 2 * height, "not a strip"
    (axes,) = sweep_figures.learning_curves(keys, recipes, "t").axes
    assert all(f"a_key_with_a_name_{i}=" in legend(axes)[0] for i in range(8))


def test_seeds_have_intervals_within_0_and_1() -> None:
    recipes = DataFrame([recipe(0.98, 0.05, lr="0.1"), recipe(0.5, 0.1, lr="0.2")])
    (axes,) = accuracy_by_key(["lr"], recipes, "t").axes
    (bars,) = (segments.get_segments() for segments in axes.collections)
    assert [bar[:, 1].tolist() for bar in bars] == [[pytest.approx(0.93), 1.0], [0.4, 0.6]]


def test_a_diverged_recipe_is_a_cross_even_without_an_accuracy() -> None:
    recipes = [recipe(0.9, lr="0.1"), recipe(0.4, lr="1", diverged=True), recipe(nan, lr="10", diverged=True)]
    (axes,) = accuracy_by_key(["lr"], DataFrame(recipes), "t").axes
    assert dots(axes) == {(0.1, 0.9)}
    assert crosses(axes) == [(1.0, 0.4), (10.0, 0.03)], "the last just above the bottom"
    assert legend(axes) == ["diverged"]


def test_a_recipe_that_only_failed_leaves_a_gap() -> None:
    recipes = DataFrame([recipe(0.9, lr="0.1"), recipe(nan, lr="0.2")])
    (axes,) = accuracy_by_key(["lr"], recipes, "t").axes
    assert {place for place in dots(axes) if not np.isnan(place[1])} == {(0.1, 0.9)}
    assert not crosses(axes) and axes.get_legend() is None


def test_trials_of_a_search_are_neither_joined_nor_a_map(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    draws = [
        recipe(1 - i / 60, lr=repr(10.0 ** rng.uniform(-4, 0)), size=str(2 ** rng.integers(3, 7))) for i in range(30)
    ]
    trials = DataFrame(draws)
    rates, sizes = accuracy_by_key(["lr", "size"], trials, "t").axes
    assert len(dots(rates)) == len(dots(sizes)) == 30 and not joined(rates) and not joined(sizes)
    assert words(sizes.get_xticklabels()) == ["8", "16", "32", "64"], "values that repeat have a tick each"
    assert legend(rates) == ["8", "16", "32", "64"] and sizes.get_legend() is None, "30 rates have no colours"
    draw_sweep(trials, ["lr", "size"], tmp_path)
    assert not (tmp_path / "heat_map.png").exists()


def test_zero_has_a_place_of_its_own_beside_a_logarithmic_scale() -> None:
    decays = ["0", "0.0001", "0.001", "0.01"]
    figure = accuracy_by_key(["decay"], DataFrame([recipe(0.9, decay=decay) for decay in decays]), "t")
    (axes,) = figure.axes
    places = axes.transData.transform([(float(decay), 0.9) for decay in decays])[:, 0]
    assert np.diff(places).min() > 50, "pixels between neighbours"


def test_every_word_has_a_tick_and_infinity_is_a_word() -> None:
    names = [f"torch.optim.Optimizer{i}" for i in range(12)]
    recipes = DataFrame([recipe(1 - i / 20, o=name) for i, name in enumerate(names)])
    (axes,) = accuracy_by_key(["o"], recipes, "t").axes
    assert words(axes.get_xticklabels()) == names
    recipes = DataFrame([recipe(0.5, clip="1.0"), recipe(0.7, clip="inf")])
    (axes,) = accuracy_by_key(["clip"], recipes, "t").axes
    assert words(axes.get_xticklabels()) == ["inf", "1.0"]


def test_the_heat_map_has_a_number_in_every_cell() -> None:
    recipes = [recipe(0.9, lr="0.01", act="tanh"), recipe(0.5, lr="0.1", act="tanh", diverged=True)]
    recipes += [recipe(nan, lr="0.01", act="relu", diverged=True), recipe(0.7, lr="1", act="relu")]
    (axes,) = heat_map(["lr", "act"], DataFrame(recipes), "t").axes
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
    (axes,) = sweep_figures.learning_curves(["optimizer._target_"], recipes, "t").axes
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
        "accuracy": accuracy_by_key(keys, grid, "$\\a$"),
        "heat_map": heat_map(keys, grid, "$\\a$"),
        "curves": sweep_figures.learning_curves(keys, grid, "$\\a$"),
        "confusion": run_figures.confusion_matrix(np.eye(5, dtype=np.int64), AWKWARD, "$\\a$"),
        "predictions": run_figures.predictions(images, AWKWARD, AWKWARD[::-1], sure, "$\\a$"),
        "photos": run_figures.prepared_photos(AWKWARD, [np.zeros((9, 9, 3), np.uint8)] * 5, images, AWKWARD, "$\\a$"),
    }
    style.save(figures, tmp_path)
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
