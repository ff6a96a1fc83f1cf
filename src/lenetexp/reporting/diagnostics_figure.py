"""The picture of what happens inside the net: where the signal, the gradient or the updates die."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lenetexp.reporting.style import WRONG, make_figure, styled

# What is drawn, and from where to where: the same for all runs, so that pictures can be compared.
MAPS = {
    "activation_deviation": ("what it passes on: difference between images\n(dark: all images look alike)", 1e-3, 10),
    "gradient_norm": ("gradient of its weights: norm\n(dark: little tells it what to learn)", 1e-5, 10),
    "update_ratio": ("next step: share of its weights\n(dark: it hardly changes)", 1e-6, 0.1),
}


@styled
def draw_diagnostics(rows: Sequence[Mapping[str, float]], unit: str, title: str) -> Figure | None:
    """Draw layers (the input's at the top) against epochs or batches in logarithmic colours, with zeros in red.

    Args:
        rows: What `measure_diagnostics` returned for each `unit`, in turn.
        unit: "epoch" or "batch".
        title: The figure's title.

    Returns:
        The figure, or None without measurements.
    """
    layers = list(dict.fromkeys(key.rpartition("/")[0] for row in rows for key in row if "/" in key))
    if not layers:
        return None
    places = {0: " (first)", len(layers) - 1: " (last)"} if len(layers) > 1 else {}
    names = [f"{layer}{places.get(i, '')}" for i, layer in enumerate(layers)]
    height = 1.9 + 0.3 * len(layers)
    figure = make_figure(11, height, title, fitted=False)
    figure.subplots_adjust(left=0.11, right=0.965, wspace=0.1, top=1 - 0.9 / height, bottom=0.72 / height)
    figure.text(0.99, 0.1 / height, "red: nothing at all", color=WRONG, fontsize=9, ha="right", va="bottom")
    colours = colormaps["viridis"].with_extremes(bad=WRONG)
    values = {
        measure: np.array([[row.get(f"{layer}/{measure}", np.nan) for row in rows] for layer in layers])
        for measure in MAPS
    }
    # Behind a dead layer, rounding errors are left.
    nothing = {measure: values[measure] < low / 1000 for measure, (_, low, _) in MAPS.items()}
    # Updates also end with their schedule, which is no death.
    nothing["update_ratio"] = nothing["gradient_norm"]
    extent = (0.5, len(rows) + 0.5, len(layers) - 0.5, -0.5)
    for axes, (measure, (name, low, high)) in zip(
        figure.subplots(1, len(MAPS), sharey=True), MAPS.items(), strict=True
    ):
        cells = np.ma.array(values[measure], mask=nothing[measure]).clip(low)
        image = axes.imshow(
            cells, norm=LogNorm(low, high), cmap=colours, aspect="auto", extent=extent, interpolation="none"
        )
        axes.set(xlabel=unit, yticks=range(len(layers)), yticklabels=names)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_title(name, fontsize=9.5)
        figure.colorbar(image, ax=axes, pad=0.02, aspect=12, format="%g")
    return figure
