"""What the page shows of a picture: its way into the net's form, every layer's output, the probabilities."""

from base64 import b64encode
from dataclasses import dataclass, replace
from io import BytesIO
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from lenetexp.datasets.mnist_form import BOX, FRAME, compute_mnist_steps
from lenetexp.datasets.pictures import FamiliarImages, UploadedPicture, read_image, scale_picture
from lenetexp.datasets.splits import Split
from lenetexp.inference.trained import TrainedNet
from lenetexp.training.evaluate import evaluate

CPU = torch.device("cpu")
MOST_MAPS, MOST_UNITS = 64, 1_024  # of a layer that are shown
SHOWN = 112  # pixels of a step's longer side: what there is room for


@dataclass(frozen=True)
class Pixels:
    """uint8 values for the page, row by row, in base64, with 1 or 3 `channels` per pixel."""

    width: int
    height: int
    channels: int
    values: str


@dataclass(frozen=True)
class Step:
    """A step of the preparation, in words and as a picture. `mass` is its centre of mass, across and down."""

    caption: str
    pixels: Pixels
    mass: tuple[float, float] | None = None


@dataclass(frozen=True)
class Layer:
    """The output of a layer: `count` maps (a unit is a map of one pixel), 0 to 255 between `low` and `high`."""

    name: str
    count: int  # shown
    of: int
    width: int
    height: int
    low: float
    high: float
    values: str


@dataclass(frozen=True)
class Opinion:
    """The answer of one net."""

    preparation: int  # which of the answer's
    shares: list[float]  # the probabilities of the classes
    winner: int
    layers: list[Layer]


@dataclass(frozen=True)
class Answer:
    """Everything that the page shows of one picture."""

    preparations: list[list[Step]]
    nets: list[Opinion]
    strange: bool = False  # unlike the first net's training images


Form = tuple[bool, tuple[int, int, int]]  # MNIST's or not, and the shape: nets of one form get the same image


class ObservedNet:
    """A trained net whose layers are recorded while it answers. Not for several threads at once."""

    def __init__(self, net: TrainedNet, device: torch.device = CPU) -> None:
        self.net, self.device = net, device
        net.model.to(device)
        self.form: Form = (net.facts.like_mnist, net.facts.image_shape)
        self.outputs: list[tuple[str, Tensor]] = []  # by each layer in turn
        for name, module in net.model.named_modules():
            if getattr(module, "inplace", False):  # it would overwrite what is looked at
                module.inplace = False
            if not [*module.children()]:
                module.register_forward_hook(
                    lambda module, inputs, out, name=name: self._note(name, module, inputs, out)
                )

    def _note(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(output, Tensor) or output.dim() < 2 or not name:
            return
        # An activation has no weights and keeps the shape: what it returns is what the layer before it passes on.
        same = bool(inputs) and getattr(inputs[0], "shape", None) == output.shape
        if self.outputs and same and not [*module.parameters()]:
            name = self.outputs.pop()[0]
        self.outputs.append((name, output.detach()))

    def observe(self, image: NDArray[np.uint8], preparation: int) -> Opinion:
        """Classify a C×H×W image as predict.py would, and record every layer's output."""
        self.outputs.clear()
        images = torch.from_numpy(image)[None].to(self.device)
        scores = evaluate(self.net.model, Split(images, torch.zeros(1, dtype=torch.int64)))
        if self.outputs and self.outputs[-1][1].shape == scores.logits.shape:
            self.outputs.pop()  # the output, whose bars say more
        shares = scores.logits.softmax(1)[0].nan_to_num().tolist()
        return Opinion(preparation, shares, int(scores.predicted[0]), [_reduce_layer(*each) for each in self.outputs])

    def count_correct(self, split: Split) -> int:
        """Count the images of a split that the net classifies correctly."""
        predictions = evaluate(self.net.model, split.to(self.device)).correct if len(split) else 0
        self.outputs.clear()  # of all images
        return predictions


def answer_picture(nets: list[ObservedNet], picture: bytes, familiar: FamiliarImages | None = None) -> Answer:
    """Classify a picture file with every net.

    It is compared with the first net's training images, if they are on this machine.

    Raises:
        UserError: It is not a picture, or shows nothing.
    """
    forms = {form: prepare_picture(form, picture) for form in dict.fromkeys(net.form for net in nets)}
    image = torch.from_numpy(forms[nets[0].form][1])
    return replace(
        _combine_opinions(nets, forms), strange=familiar is not None and familiar.find_strangers(image[None])[0]
    )


def answer_to_test(nets: list[ObservedNet], image: NDArray[np.uint8]) -> Answer:
    """Classify a test image, C×H×W, of the first net's dataset. Nets of another form get it as a picture."""
    forms: dict[Form, tuple[list[Step], NDArray[np.uint8]]] = {}
    for net in nets:
        if net.form == nets[0].form:
            forms[net.form] = [Step("The test image as it is", encode_pixels(image))], image
        elif net.form not in forms:
            forms[net.form] = prepare_picture(net.form, encode_png(image))
    return _combine_opinions(nets, forms)


def _combine_opinions(nets: list[ObservedNet], forms: dict[Form, tuple[list[Step], NDArray[np.uint8]]]) -> Answer:
    order = [*forms]
    opinions = [net.observe(forms[net.form][1], order.index(net.form)) for net in nets]
    return Answer([steps for steps, _ in forms.values()], opinions)


def prepare_picture(form: Form, picture: bytes) -> tuple[list[Step], NDArray[np.uint8]]:
    """Return the steps into a net's form, and the C×H×W image that the net gets."""
    as_mnist, shape = form
    upload = UploadedPicture("the picture", picture)
    if not as_mnist:
        image = scale_picture(read_image(upload, "L" if shape[0] == 1 else "RGB"), shape)
        return [Step(f"Scaled to {shape[2]}×{shape[1]}, as the training images were", encode_pixels(image))], image
    steps = compute_mnist_steps(np.array(read_image(upload, "L")), "auto", upload.name)
    height, width = steps.cropped.shape
    before, after = _locate_mass(steps.framed), _locate_mass(steps.centred)
    across, down = (round(there - here) for here, there in zip(before, after, strict=True))
    moves = [f"{abs(across)} {'right' if across > 0 else 'left'}"] if across else []
    moves += [f"{abs(down)} {'down' if down > 0 else 'up'}"] if down else []
    return [
        Step("Ink: the paper is taken away", encode_pixels(steps.ink[None])),
        Step(f"Crop: the box around the ink, {width}×{height}", encode_pixels(steps.cropped[None])),
        Step(f"Scale: the box into {BOX}×{BOX} of {FRAME}×{FRAME}", encode_pixels(steps.framed[None]), before),
        Step(f"Centre by mass: {' and '.join(moves) or 'stays'}", encode_pixels(steps.centred[None]), after),
    ], steps.centred[None]


def _locate_mass(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the centre of mass of a grey image, across and down, in pixels."""
    weights = image / max(image.sum(), 1)
    return tuple((weights.sum(axis) * np.arange(image.shape[1 - axis])).sum() for axis in (0, 1))


def encode_pixels(image: NDArray[np.uint8]) -> Pixels:
    """Encode a C×H×W image for the page, reduced to what there is room for."""
    picture = convert_to_picture(image)
    picture = picture.reduce(max(1, -(-max(picture.size) // SHOWN)))
    return Pixels(*picture.size, len(picture.getbands()), b64encode(picture.tobytes()).decode())


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode a C×H×W image as a PNG file."""
    file = BytesIO()
    convert_to_picture(image).save(file, "PNG")
    return file.getvalue()


def convert_to_picture(image: NDArray[np.uint8]) -> Image.Image:
    """Convert a C×H×W image to grey or RGB. Of any other number of channels take the mean."""
    if len(image) == 3:
        return Image.fromarray(image.transpose(1, 2, 0))
    return Image.fromarray(image[0] if len(image) == 1 else image.mean(0).astype(np.uint8))


def _reduce_layer(name: str, output: Tensor) -> Layer:
    """Reduce a layer's output, 1×maps×height×width or 1×units, to what the page shows of it."""
    maps = output[0].float().cpu().nan_to_num()
    maps = maps.reshape(maps.shape[0], *(maps.shape[1:] if maps.dim() == 3 else (-1, 1)))
    of = len(maps)
    maps = maps[: MOST_UNITS if prod(maps.shape[1:]) == 1 else MOST_MAPS]
    low, high = float(maps.min()), float(maps.max())
    values = ((maps - low) * (255 / max(high - low, 1e-12))).round().to(torch.uint8)
    count, height, width = values.shape
    return Layer(name, count, of, width, height, low, high, b64encode(values.numpy().tobytes()).decode())
