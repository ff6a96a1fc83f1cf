"""What all pictures share. No torch here: the parent process of a sweep draws, too."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure  # for others to import from here

from lenetexp.config.identity import short

# On first use, matplotlib would report that it builds its font cache.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

TRAIN, VAL, WRONG, INK, FAINT = "#8a8f98", "#1f6fb4", "#c8372d", "#22262b", "#d5d8dc"

# Around everything that makes a figure: a dollar in a name starts no formula.
# Not set for the whole process, where a custom model may draw pictures, too.
styled = matplotlib.rc_context({"text.parse_math": False, "legend.frameon": False})


def new_figure(
    width: float, height: float, title: str, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """An empty figure, sized in inches. The constrained layout measures all text, which may take 0.1 s."""
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(title, y=None if layout else 1 - 0.14 / height)
    return figure


@styled
def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Writes each figure as folder/<name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        # Little compression: half the time of the default for a fifth more bytes.
        figure.savefig(folder / f"{name}.png", dpi=110, pil_kwargs={"compress_level": 2})


def label(name: str, longest: int = 28) -> str:
    """A name with room beside a picture: long numbers rounded, long words without their middle."""
    name = short(name)
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 + 1 :]}"


def light_grid(axes: Axes) -> None:
    """Adds a pale grid and removes the frame at the top and right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
