"""Pictures of a run show the numbers that they are given, however few or many there are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

from figure_texts import legend, words
from helpers import PlainLeNet, make_data
from lenetexp.reporting import run_figures, style
from lenetexp.training.evaluate import Scores
from lenetexp.training.state import EpochRecord


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


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def red(texts: Sequence[Text]) -> int:
    return sum(same_color(text.get_color(), style.WRONG) for text in texts)


def test_learning_curves_show_every_epoch_and_the_best_one() -> None:
    epochs = history(0.5, 0.9387, 0.9)
    losses, accuracies = run_figures.draw_learning_curves(epochs, epochs[1], 10, "LeNet on digits").axes
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


def test_the_axis_of_accuracies_is_where_they_are() -> None:
    epochs = history(0.95, 0.99)  # in training 0.1 less
    losses, accuracies = run_figures.draw_learning_curves(epochs, epochs[1], 10, "t").axes
    low, high = accuracies.get_ylim()
    assert 0.8 < low < 0.85 and high == 1
    assert legend(accuracies) == ["training", "validation", "best epoch: 99.00%"], "chance would be far below"
    for line in (*losses.lines[:2], *accuracies.lines[:2]):
        assert not line.get_clip_on(), "a marker on an axis is whole"
    assert losses.get_xlim()[0] < 1 and losses.get_xlim()[1] > 2


def test_a_single_epoch_is_a_point_inside_the_axes() -> None:
    epochs = history(0.7)
    for axes in run_figures.draw_learning_curves(epochs, epochs[0], 10, "t").axes:
        assert all(line.get_marker() == "o" for line in axes.lines[:2])
        low, high = axes.get_xlim()
        assert low < 1 < high
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]
        assert axes.get_ylim()[0] <= min(axes.lines[1].get_ydata()) <= axes.get_ylim()[1]


def test_the_confusion_matrix_shows_every_count_and_mistakes_in_red() -> None:
    counts = np.diag([100, 50, 99, 0])
    counts[2, 0], counts[1, 3] = 1, 50
    (axes,) = run_figures.draw_confusion_matrix(counts, ["cat", "dog", "emu", "fox"], "t").axes
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
    (axes,) = run_figures.draw_confusion_matrix(np.eye(47, dtype=np.int64), names, "t").axes
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
    figure = run_figures.draw_mistakes(data, scores(labels, predicted, [1 + i / 10 for i in range(60)]))
    assert title(figure) == expected
    (axes,) = figure.axes
    most_confident = list(range(wrong))[::-1][:25]
    assert len(axes.images) == len(axes.patches) == red(axes.texts) == len(most_confident)
    for i, image, text in zip(most_confident, axes.images, axes.texts, strict=True):
        assert np.array_equal(image.get_array()[..., 0], data.test.images[i, 0])
        assert text.get_text().startswith(f"{predicted[i]} (") and text.get_text().endswith(f"\nis {labels[i]}")


def test_predictions_mark_only_mistakes() -> None:
    images = make_data(3).test.images.numpy()
    figure = run_figures.draw_predictions(images, ["a", "b", "c"], ["a", "x", "c"], [0.5, 0.75, 1.0])
    assert title(figure) == "1 of 3 images misclassified"
    (axes,) = figure.axes
    assert words(axes.texts) == ["a (50%)", "b (75%)\nis x", "c (100%)"]
    assert red(axes.texts) == len(axes.patches) == 1


def test_photos_stand_beside_their_prepared_form() -> None:
    photos = [np.full(shape, i, dtype=np.uint8) for i, shape in enumerate(((400, 300, 3), (28, 90, 3)))]
    prepared = make_data(2).test.images.numpy()
    figure = run_figures.draw_prepared_photos(
        ["a.jpg", f"{'long' * 9}.png"], photos, prepared, ["7 (99%)", "1 (20%)"], "t"
    )
    (axes,) = figure.axes
    shown = [image.get_array() for image in axes.images]
    assert np.array_equal(shown[0], photos[0]) and np.array_equal(shown[2], photos[1])
    assert np.array_equal(shown[1][..., 2], prepared[0, 0]) and np.array_equal(shown[3][..., 2], prepared[1, 0])
    assert words(axes.texts) == ["a.jpg", "7 (99%)", "longlongl…long.png", "1 (20%)"]
    left, right, bottom, top = axes.images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(300 / 400), "not distorted"


def test_filters_show_weights_and_responses_on_scales_around_zero() -> None:
    layer, image = nn.Conv2d(3, 12, 5), torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    sheet, weights, responses = run_figures.draw_filters(layer, image, "t").axes
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
