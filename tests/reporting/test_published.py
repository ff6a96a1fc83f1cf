"""The picture of results beside published ones."""

import numpy as np
import pytest
from pandas import DataFrame

from lenetexp.reporting.sweep_figures import draw_beside_published


def test_errors_here_and_published_stand_in_one_row_the_largest_on_top() -> None:
    recipes = DataFrame(
        {
            "experiment": ["svm", "linear"],
            "test": [0.99, 0.86],
            "test_low": [0.988, 0.853],
            "test_high": [0.992, 0.867],
            "published": [0.989, 0.88],
        }
    )
    (axes,) = draw_beside_published(["experiment"], recipes, "a title").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["linear", "svm"]
    top, bottom = axes.get_ylim()[1], axes.get_ylim()[0]
    assert top < bottom  # row 0 is the highest
    (bars,) = axes.containers
    here, published = bars.lines[0], axes.lines[-1]
    assert here.get_xdata() == pytest.approx(np.array([14, 1]))
    assert published.get_xdata() == pytest.approx(np.array([12, 1.1]))
    ends = [segment[:, 0].tolist() for segment in bars.lines[2][0].get_segments()]
    assert ends == [pytest.approx([13.3, 14.7]), pytest.approx([0.8, 1.2])]
