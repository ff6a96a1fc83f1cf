"""What is written in a figure."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.text import Text


def words(texts: Sequence[Text]) -> list[str]:
    return [text.get_text() for text in texts]


def legend(axes: Axes) -> list[str]:
    return words(axes.get_legend().get_texts())
