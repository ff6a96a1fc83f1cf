"""Colours, sizes and helpers that all pictures share. No torch here: the parent process of a sweep draws, too."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Figure  # for others to import from here

from lenetexp.config.identity import shorten_value

# On first use, matplotlib would report that it builds its font cache.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

TRAIN, VAL, WRONG, INK, FAINT = "#8a8f98", "#1f6fb4", "#c8372d", "#22262b", "#d5d8dc"

# Decorate what draws: a dollar in a name starts no formula. Not set globally, as a custom model may draw, too.
STYLE: dict[Any, Any] = {"text.parse_math": False, "legend.frameon": False, "grid.alpha": 0.3}
styled = matplotlib.rc_context(STYLE)
with_grid = matplotlib.rc_context({**STYLE, "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False})


def make_figure(width: float, height: float, title: str, fitted: bool = True) -> Figure:
    """Make an empty figure.

    Args:
        width: In inches.
        height: In inches.
        title: Its title.
        fitted: Whether its margins follow the size of its labels, which takes 0.1 s.
    """
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, y=None if fitted else 1 - 0.14 / height)
    if fitted:
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


@styled
def save_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write each figure as folder/<name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        # Little compression: half the time of the default for a fifth more bytes.
        figure.savefig(folder / f"{name}.png", dpi=110, pil_kwargs={"compress_level": 2})


def shorten_label(name: str, longest: int = 28) -> str:
    """Shorten a name that stands beside a picture: long numbers are rounded, long words lose their middle."""
    name = shorten_value(name)
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 + 1 :]}"
