"""The picture of the inside: dark where little arrives, red where nothing does."""

import numpy as np
import pytest

from lenetexp.reporting.diagnostics_figure import MAPS, draw_diagnostics

DEAD = {"activation_deviation": 0.0, "gradient_norm": 0.0, "update_ratio": 0.0}
ALIVE = {"activation_deviation": 0.5, "gradient_norm": 0.1, "update_ratio": 1e-3}


def row(**layers: dict[str, float]) -> dict[str, float]:
    return {f"{layer}/{measure}": value for layer, values in layers.items() for measure, value in values.items()}


def test_a_dead_layer_is_red_and_a_step_of_next_to_nothing_is_dark() -> None:
    ended = ALIVE | {"update_ratio": 0.0}  # the schedule's last step
    figure = draw_diagnostics([row(c1=DEAD, output=ALIVE), row(c1=DEAD, output=ended)], "epoch", "t")
    assert figure is not None
    pictures = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in pictures] == [name for name, _, _ in MAPS.values()]
    assert [label.get_text() for label in pictures[0].get_yticklabels()] == ["c1 (first)", "output (last)"], (
        "the input's at the top"
    )
    assert any("red: nothing at all" in text.get_text() for text in figure.texts)
    for axes, (_, low, _) in zip(pictures, MAPS.values(), strict=True):
        shown = axes.images[0].get_array()
        assert shown is not None
        assert np.ma.getmaskarray(shown).tolist() == [[True, True], [False, False]]
        assert shown.min() >= low
    steps = pictures[2].images[0].get_array()
    assert steps is not None and steps[1].tolist() == pytest.approx([1e-3, 1e-6])


def test_without_measurements_there_is_no_picture() -> None:
    assert draw_diagnostics([], "epoch", "t") is None and draw_diagnostics([{}, {}], "epoch", "t") is None
    assert draw_diagnostics([{"epoch": 1.0, "batch": 1.0}], "batch", "t") is None
