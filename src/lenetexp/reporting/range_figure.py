"""The picture of a learning-rate range test."""

from collections.abc import Sequence
from pathlib import Path

from lenetexp.reporting.style import FAINT, INK, TRAIN, VAL, make_figure, save_figures, with_grid


@with_grid
def draw_range(
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    suggested: tuple[float, float, float] | None,
    title: str,
    path: Path,
) -> None:
    """Draw the loss against a logarithmic rate, with the lower, the middle and the higher suggested rate."""
    figure = make_figure(8, 4.2, f"Loss at a rising learning rate: {title}")
    axes = figure.subplots()
    axes.plot(rates, losses, color=FAINT, linewidth=0.8, label="each batch")
    axes.plot(rates, smooth, color=VAL, label="smoothed")
    if suggested is not None:
        low, best, high = suggested
        axes.axvspan(low, high, color=TRAIN, alpha=0.15, linewidth=0, label=f"to sweep: {low:.2g} to {high:.2g}")
        axes.axvline(best, color=INK, linestyle=":", label=f"to try: {best:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss per example")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 2 * max(smooth[: max(len(smooth) // 10, 1)], default=1.0))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    save_figures({path.stem: figure}, path.parent)
