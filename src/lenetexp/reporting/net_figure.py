"""A net drawn to scale in the manner of LeCun 1998, figure 2, with its tables of connections and its bitmaps."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.colors import ListedColormap
from matplotlib.patches import Polygon, Rectangle

from lenetexp.reporting.style import FAINT, INK, TRAIN, VAL, make_figure, save_figures, styled

if TYPE_CHECKING:  # no torch here
    from lenetexp.models.counts import Layer

GAP = 9.0  # between layers, in pixels of the image, as all lengths here
DEPTH = 22.0  # how far the last map of a stack stands behind the first, at most
STEP = 2.4  # and one behind the next, at most; and this share of its side
STEP_SHARE = 0.3
UNIT = 0.3  # of a vector, along its bar
FILLS = {"image": "#ffffff", "subsampling": "#f3e6cf", "average pooling": "#f3e6cf", "max pooling": "#f3e6cf"}
MAPS, VECTOR = "#dbe7f3", "#e4e6ea"


class _Stack:
    """The place of a layer: its front map's lower left corner, its side, the offset of each map behind it."""

    def __init__(self, layer: "Layer", left: float) -> None:
        self.layer, self.left = layer, left
        self.maps, self.side = layer.shape[0], float(layer.shape[-1]) if len(layer.shape) > 1 else 0.0
        self.step = min(STEP, STEP_SHARE * self.side, DEPTH / max(self.maps - 1, 1)) if self.side else 0.0
        self.depth = self.step * (self.maps - 1)
        self.length = max(self.maps * UNIT, 3.0)  # of a vector's bar
        self.width = self.side + self.depth if self.side else 0.45 * self.length + 1.5
        self.height = self.side + self.depth if self.side else self.length
        self.bottom = -self.height / 2

    @property
    def right(self) -> float:
        return self.left + self.width


@styled
def draw_net(layers: Sequence["Layer"], name: str, path: Path, copies: int = 1) -> None:
    """Draw the image and every layer from left to right: maps as stacks of squares, vectors as bars.

    Args:
        layers: The layers; of several equal nets side by side, those of one.
        name: The net's name.
        path: The PNG to write.
        copies: Number of equal nets side by side.
    """
    stacks: list[_Stack] = []
    left = 0.0
    for layer in layers:
        stacks.append(_Stack(layer, left))
        left += max(stacks[-1].width, 11.0) + GAP
    tallest = max(stack.height for stack in stacks)
    width = stacks[-1].right
    parameters, connections = (
        copies * sum(getattr(layer, key) for layer in layers) for key in ("parameters", "connections")
    )
    whole = name if copies == 1 else f"{name} ({copies} times this net, side by side)"
    scale = 0.062  # inches a pixel
    figure = make_figure(
        (width + 14) * scale, (tallest + 30) * scale,
        f"{whole}: {parameters:,} parameters, {connections:,} connections",
    )  # fmt: skip
    axes = figure.subplots()
    for stack in stacks:
        (_draw_maps if stack.side else _draw_vector)(axes, stack)
    for before, after in pairwise(stacks):
        _draw_window(axes, before, after)
        kind = after.layer.kind.replace(" ", "\n")
        x = (before.right + after.left) / 2
        axes.text(x, -tallest / 2 - 4, kind, ha="center", va="top", fontsize=8, color=TRAIN)
    for stack in stacks:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        x, y, text = stack.left + stack.width / 2, stack.height / 2 + 2, _format_layer(stack.layer)
        axes.text(x, y, text, ha="center", va="bottom", fontsize=9, color=INK, bbox=box)
    axes.set(xlim=(-6, width + 8), ylim=(-tallest / 2 - 14, tallest / 2 + 12), aspect="equal")
    axes.set_axis_off()
    save_figures({path.stem: figure}, path.parent)


def _format_layer(layer: "Layer") -> str:
    """Format a layer's name and size on two lines: "C1: 6@28×28"."""
    maps, *sides = layer.shape
    return f"{layer.name.upper()}\n{maps}{'@' if sides else ''}{'×'.join(map(str, sides))}"


def _draw_maps(axes: Any, stack: _Stack) -> None:
    """Draw the first map in front, at the lower left, and the last one behind all, at the upper right."""
    fill = FILLS.get(stack.layer.kind, MAPS)
    for i in reversed(range(stack.maps)):
        corner = (stack.left + i * stack.step, stack.bottom + i * stack.step)
        axes.add_patch(Rectangle(corner, stack.side, stack.side, facecolor=fill, edgecolor=INK, linewidth=0.7))


def _draw_vector(axes: Any, stack: _Stack) -> None:
    """Draw a bar that leans to the right, as long as the layer has units."""
    lean, thick = 0.45 * stack.length, 1.5
    x, y = stack.left, stack.bottom
    corners = [(x, y), (x + thick, y), (x + thick + lean, y + stack.length), (x + lean, y + stack.length)]
    axes.add_patch(Polygon(corners, facecolor=VECTOR, edgecolor=INK, linewidth=0.7))


def _draw_window(axes: Any, before: _Stack, after: _Stack) -> None:
    """Draw what a unit sees: a square of the map before, from which lines run to the unit; or everything."""
    window = min(float(after.layer.window), before.side)
    if not before.side or not window or not after.side:
        for share in (0.0, 1.0):
            start, end = _locate_edge(before, share, right=True), _locate_edge(after, share, right=False)
            axes.plot(*zip(start, end, strict=True), color=FAINT, linewidth=0.9, zorder=0)
        return
    x = before.left + 0.62 * (before.side - window)
    y = before.bottom + 0.3 * (before.side - window)
    axes.add_patch(Rectangle((x, y), window, window, facecolor="none", edgecolor=VAL, linewidth=1.1))
    unit = (after.left + 0.22 * after.side, after.bottom + 0.3 * after.side)
    for corner in ((x + window, y), (x + window, y + window)):
        axes.plot(*zip(corner, unit, strict=True), color=VAL, linewidth=0.7)
    axes.plot(*unit, marker="s", markersize=2.2, color=VAL)


def _locate_edge(stack: _Stack, share: float, right: bool) -> tuple[float, float]:
    """Return a point at a layer's side, from its foot (0) to its top (1)."""
    if stack.side:
        x = stack.left + (stack.side if right else 0.0) + share * stack.depth
    else:
        x = stack.left + (1.5 if right else 0.0) + 0.45 * stack.length * share
    return x, stack.bottom + share * stack.height


@styled
def draw_connections(tables: Mapping[str, Sequence[Sequence[int]]], name: str, path: Path) -> None:
    """Draw a grid for each table, with a cross where a map (column) sees a map of the layer before (row)."""
    rows = [max(max(sources) for sources in table) + 1 for table in tables.values()]
    widest = max(len(table) for table in tables.values())
    cell = 0.26 if widest <= 40 else 0.1
    figure = make_figure(max(widest * cell + 1.4, 4.5), sum(rows) * cell + 1.0 * len(rows) + 0.4,
                        f"{name}: which maps see which")  # fmt: skip
    grids = figure.subplots(len(tables), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for axes, (layer, table), inputs in zip(grids, tables.items(), rows, strict=True):
        sources = [[float(i in maps) for maps in table] for i in range(inputs)]
        axes.imshow(sources, cmap=ListedColormap(["#ffffff", VAL]), vmin=0, vmax=1, aspect="equal")
        axes.set_xticks(range(0, len(table), 1 if widest <= 40 else 5))
        axes.set_yticks(range(0, inputs, 1 if widest <= 40 else 5))
        axes.set_xticks([i - 0.5 for i in range(len(table) + 1)], minor=True)
        axes.set_yticks([i - 0.5 for i in range(inputs + 1)], minor=True)
        axes.grid(which="minor", color=FAINT, linewidth=0.6, alpha=1)
        axes.tick_params(which="both", length=0, labelsize=8)
        links = sum(map(len, table))
        axes.set(xlabel=f"map of {layer}", ylabel="map it sees")
        axes.set_title(f"{layer}: {links} of {len(table) * inputs:,} connections", fontsize=9)
    save_figures({path.stem: figure}, path.parent)


@styled
def draw_bitmaps(bitmaps: Sequence[Sequence[Sequence[float]]], path: Path) -> None:
    """Draw the target of f6 for each class: ink where it is 1, paper where it is -1."""
    columns = min(len(bitmaps), 10)
    figure = make_figure(0.85 * columns + 0.3, 1.9, "What the RBF units compare with (a reconstruction)")
    for axes, (digit, bitmap) in zip(figure.subplots(1, columns, squeeze=False)[0], enumerate(bitmaps), strict=True):
        axes.imshow(bitmap, cmap=ListedColormap(["#ffffff", INK]), vmin=-1, vmax=1)
        axes.set_xticks([i + 0.5 for i in range(len(bitmap[0]))], minor=True)
        axes.set_yticks([i + 0.5 for i in range(len(bitmap))], minor=True)
        axes.grid(which="minor", color=FAINT, linewidth=0.4, alpha=1)
        axes.tick_params(which="both", length=0)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(str(digit), fontsize=9)
    save_figures({path.stem: figure}, path.parent)
