"""MNIST's form: one sign without its paper, scaled into the middle 20×20 of 28×28 and centred by its mass."""

from math import ceil
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lenetexp.datasets.pictures import resize_images
from lenetexp.errors import UserError

# MNIST: scaled into 20×20, the centre of mass in the middle of 28×28 (LeCun et al. 1998, section III A).
BOX, FRAME, MARGIN = 20, 28, 4
PAPER = 0.2  # between paper (0) and ink (1): anything lower is paper, dust or shadow
RULED = 0.5  # and anything lower than this may be a ruled line or the rest of a shadow
DARKEST = 16.0  # paper, of 255: in a darker shadow there is nothing but noise
FAINTEST = 16  # of 255: anything fainter is a scan's noise, not a stroke
LARGEST = 400  # pixels of a side in which a sign is looked for: twenty times what is left of it
SMALL = 140  # and at least so many, seven times what is left of it, or strokes are as narrow as the filters
TINY = 2 * FRAME  # but a picture of no more pixels is all sign: no photo with shadows, its paper is one shade
SAME_HEIGHT = 0.6  # of the tallest part of the ink, for a sign beside it
SPECK = 20  # pixels of a large photo that may be dust
DUST = 0.02  # share of the largest part of the ink: a smaller part is dust, too

Invert = Literal["auto"] | bool  # whether a sign is dark on light
Shades = NDArray[np.float64]


def fit_into_mnist_frame(images: Tensor) -> Tensor:
    """Bring N×1×h×w floats in [0, 255] that fill their frame into MNIST's frame: N×1×28×28 uint8."""
    return center_by_mass(F.pad(resize_images(images, BOX), (MARGIN, MARGIN, MARGIN, MARGIN)))


def center_by_mass(images: Tensor) -> Tensor:
    """Move N×1×28×28 images, drawn in the middle 20×20, by whole pixels until their mass is centred on pixel 14."""
    # There MNIST's 60,000 training images have it on average: 14.00 down and 14.01 across.
    mass = images[:, 0].double()  # N×28×28
    place = torch.arange(FRAME, dtype=torch.float64)
    total = mass.sum((1, 2)).clamp(min=1e-9)
    centres = torch.stack([mass.sum(2) @ place / total, mass.sum(1) @ place / total], 1)  # row, column
    moves = (FRAME / 2 - centres).round().clamp(-MARGIN, MARGIN).long().tolist()
    return torch.stack([image.roll(move, (1, 2)) for image, move in zip(images, moves, strict=True)])


class MnistSteps(NamedTuple):
    """The steps of a picture into MNIST's form. Each is made from the one before, light on dark."""

    ink: NDArray[np.uint8]  # H×W, the working picture without its paper
    cropped: NDArray[np.uint8]  # the box around the ink
    framed: NDArray[np.uint8]  # 28×28, the box scaled into the middle 20×20
    centred: NDArray[np.uint8]  # 28×28, moved until the centre of mass is in the middle

    def count_signs(self) -> int:
        """Count the signs of about one height that stand side by side."""
        from scipy import ndimage

        boxes = ndimage.find_objects(ndimage.label(self.ink, np.ones((3, 3)))[0])
        tallest = max(box[0].stop - box[0].start for box in boxes)
        tall = [box for box in boxes if box[0].stop - box[0].start >= SAME_HEIGHT * tallest]
        count, end = 0, -1
        for _, columns in sorted(tall, key=lambda box: box[1].start):
            count += columns.start > end  # else it stands over or in the one before, as a part of it
            end = max(end, columns.stop)
        return count


def convert_to_mnist(grey: NDArray[np.uint8], invert: Invert, name: str) -> NDArray[np.uint8]:
    """Convert an H×W picture of one sign into MNIST's form, 1×28×28. See `compute_mnist_steps`."""
    return compute_mnist_steps(grey, invert, name).centred[None]


def compute_mnist_steps(grey: NDArray[np.uint8], invert: Invert, name: str) -> MnistSteps:
    """Compute all steps of an H×W picture of one sign into MNIST's form.

    Args:
        grey: The picture, uint8.
        invert: Whether the sign is dark on light; "auto" takes what varies less for the paper.
        name: The picture's name in messages.

    Raises:
        UserError: The picture shows no sign.
    """
    ink = _extract_ink(grey, invert, name)
    sign = Image.fromarray(ink)
    sign = sign.crop(sign.getbbox())
    ink_image, cropped = ((255 * step).round().astype(np.uint8) for step in (ink, np.array(sign)))
    width, height = (max(round(side * BOX / max(sign.size)), 1) for side in sign.size)
    scaled = np.array(sign.resize((width, height), Image.Resampling.BILINEAR))
    frame = np.zeros((FRAME, FRAME), dtype=np.uint8)
    top, left = (FRAME - height) // 2, (FRAME - width) // 2
    frame[top : top + height, left : left + width] = (scaled * (255 / scaled.max())).round()
    return MnistSteps(ink_image, cropped, frame, center_by_mass(torch.from_numpy(frame)[None, None])[0, 0].numpy())


def _extract_ink(grey: NDArray[np.uint8], invert: Invert, name: str) -> NDArray[np.float32]:
    """Return how much ink each pixel of the working picture has, in [0, 1].

    Paper, shadows, ruled lines and dust are removed.
    """
    from scipy import ndimage  # training does not need it

    sheet, paper = _separate_sheet_and_paper(grey, invert)
    # Light multiplies: in the shade, ink is darker by the same factor as paper.
    usual = float(np.median(np.concatenate(_list_sides(sheet))))
    darker = (usual - sheet * (usual / paper)).clip(0)
    # On a large photo a few dark pixels are dust; they must not set the scale. On a drawing they are its first dot.
    rank = SPECK if darker.size > 1000 * SPECK else 1
    strongest = np.sort(darker, axis=None)[-rank]
    if strongest < FAINTEST:
        raise UserError(f"{name}: must show a sign; {_describe_lack(sheet, invert)}")
    ink = (darker / strongest).clip(0, 1)
    # What crosses two sides is ruled on the paper, unless it is as dark as the sign.
    ruled = sorted(float(np.quantile(side, 0.98)) for side in _list_sides(ink))[-2]
    faint = max(PAPER, min(1.3 * ruled, RULED))
    ink = (ink - faint).clip(0) / (1 - faint)
    parts, count = ndimage.label(ink, np.ones((3, 3)))
    sizes, strengths = np.zeros(count + 1), np.zeros(count + 1)  # the first is what is no part
    is_ink = ink > 0
    np.add.at(sizes, parts[is_ink], 1)
    np.maximum.at(strengths, parts[is_ink], ink[is_ink])
    # Every stroke is somewhere about as dark as the darkest; what a shadow leaves behind is not.
    strong = strengths >= RULED
    ink[~(strong & (sizes >= DUST * sizes[strong].max()))[parts]] = 0
    return ink.astype(np.float32)


def _describe_lack(sheet: Shades, invert: Invert) -> str:
    if np.ptp(sheet) < FAINTEST:
        return "it is one flat shade"
    if invert == "auto":
        return "nothing in it stands out from its paper as a stroke does; leave paper around the sign"
    return f"nothing in it is {'darker' if invert else 'lighter'} than its paper (invert={str(invert).lower()})"


def _separate_sheet_and_paper(grey: NDArray[np.uint8], invert: Invert) -> tuple[Shades, Shades]:
    """Return the working picture as dark on light, and the shade that each of its pixels would have without ink."""
    from scipy import ndimage

    shades = np.array(_scale_to_working_size(Image.fromarray(grey))).astype(float)
    sheets = [shades if is_dark else 255 - shades for is_dark in ((True, False) if invert == "auto" else (invert,))]
    if max(grey.shape) <= TINY:
        # Its strokes are as narrow as the filters below, or wider than a fifth of it.
        papers = [np.full_like(sheet, np.median(np.concatenate(_list_sides(sheet)))) for sheet in sheets]
        sheet, paper = max(zip(sheets, papers, strict=True), key=lambda choice: choice[1].max() - choice[0].min())
        return sheet, paper.clip(DARKEST)
    # Both choices keep the edges of shadows; the wrong one keeps those of the sign as well.
    sheet, paper = min(((sheet, _close(sheet)) for sheet in sheets), key=lambda choice: _measure_edges(choice[1]))
    # Shadows are widened by the pixels of their soft edges. Before the choice, this would wipe a thin light sign out.
    return sheet, ndimage.minimum_filter(paper, 5).clip(DARKEST)


def _scale_to_working_size(picture: Image.Image) -> Image.Image:
    longer = max(picture.size)
    if not TINY < longer < SMALL:
        return picture.reduce(ceil(longer / LARGEST))
    width, height = (max(round(side * SMALL / longer), 1) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _close(shades: Shades) -> Shades:
    """Return the shades without strokes that are narrower than a fifth of the picture."""
    from scipy import ndimage

    # A closing fills what is narrow and keeps the edges of wide shadows. Before it, noise is smoothed, or the lightest
    # grain of each neighbourhood would be the paper.
    narrow = max(min(shades.shape) // 5, 3)
    padded = np.pad(ndimage.median_filter(shades, 3), narrow, "edge")
    closed: Shades = ndimage.grey_closing(padded, narrow)[narrow:-narrow, narrow:-narrow]
    return closed


def _measure_edges(shades: Shades) -> float:
    """Return the sum of the squared differences of neighbouring pixels."""
    return float(sum(np.square(np.diff(shades, axis=axis)).sum() for axis in (0, 1)))


def _list_sides(shades: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    return [shades[0], shades[-1], shades[:, 0], shades[:, -1]]
