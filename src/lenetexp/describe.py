"""scripts/describe.py: a net layer by layer, in numbers and as a picture."""

from pathlib import Path
from typing import Any

from torch import nn

from lenetexp.config.commands import DescribeConfig
from lenetexp.errors import UserError
from lenetexp.models.bitmaps import HEIGHT, WIDTH
from lenetexp.models.counts import Layer, find_copies, list_layers
from lenetexp.models.layers import EuclideanRBF
from lenetexp.reporting.terminal import format_path, format_table, try_draw
from lenetexp.training.setup import build_net

SIZE = 28  # height and width of the images that every net here takes


def describe(settings: DescribeConfig, config: dict[str, Any], folder: Path) -> None:
    """Print the table of layers. Write net.png, and connections.png and bitmaps.png if the net has such."""
    image_shape = (settings.channels, SIZE, SIZE)
    model = build_net(settings.model, settings.classes, image_shape)
    layers = list_layers(model, image_shape)
    if not layers:
        raise UserError(f"model: {settings.model.name} has no layer of a kind that lenetexp can count")
    print(build_layer_table(layers))

    def draw() -> None:
        """Draw all pictures that suit this net into `folder`."""
        from lenetexp.reporting.net_figure import draw_bitmaps, draw_connections, draw_net  # imports matplotlib

        one, copies = find_copies(layers)
        draw_net(one, settings.model.name, folder / "net.png", copies)
        tables = {layer.name: layer.table for layer in one if layer.table}
        if tables:
            draw_connections(tables, settings.model.name, folder / "connections.png")
        if (bitmaps := _collect_bitmaps(model)) is not None:
            draw_bitmaps(bitmaps, folder / "bitmaps.png")

    if try_draw(draw):
        for path in sorted(folder.glob("*.png")):
            print(f"  picture  {format_path(path)}")


def build_layer_table(layers: list[Layer]) -> str:
    """Build a table with a row for each layer, and the totals."""
    totals = [sum(getattr(layer, key) for layer in layers) for key in ("units", "parameters", "connections")]
    return format_table(
        {
            "layer": [*(layer.name for layer in layers), "total"],
            "kind": [*(layer.kind for layer in layers), ""],
            "output": [*(format_size(layer.shape) for layer in layers), ""],
            "units": [*(f"{layer.units:,}" for layer in layers), f"{totals[0]:,}"],
            "parameters": [*(f"{layer.parameters:,}" for layer in layers), f"{totals[1]:,}"],
            "connections": [*(f"{layer.connections:,}" for layer in layers), f"{totals[2]:,}"],
        }
    )


def format_size(shape: tuple[int, ...]) -> str:
    """Format the size of a layer as the papers do: "6@28×28", or "84"."""
    maps, *sides = shape
    return f"{maps}@{'×'.join(map(str, sides))}" if sides else f"{maps}"


def _collect_bitmaps(model: nn.Module) -> list[list[list[float]]] | None:
    """Return the classes×height×width bitmaps of a net that compares with some, or None."""
    centres = next((module.weight for module in model.modules() if isinstance(module, EuclideanRBF)), None)
    return None if centres is None else centres.view(-1, HEIGHT, WIDTH).tolist()
