"""A digit redrawn as a pen would draw it: along its skeleton, as wide at each point as the digit is there."""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt

SIDE = 280  # of the page's sheet
FINE = 140  # of the picture that is thinned: four times quicker
EVERY = 5  # pixels of that between the points of a stroke: one pixel of the digit
AROUND = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]  # clockwise from above
Stroke = list[tuple[float, float, float]]  # x, y and width, in pixels of the sheet
Pixel = tuple[int, int]


def strokes_of(image: NDArray[np.uint8]) -> list[Stroke]:
    """A 28×28 digit, light on dark, as strokes on the sheet."""
    ink = np.array(Image.fromarray(image).resize((FINE, FINE), Image.Resampling.BICUBIC)) > 127
    width = 2 * distance_transform_edt(ink) - 1  # the ink ends half a pixel before the first pixel without it
    lines = _traced({(int(y), int(x)) for y, x in np.argwhere(thinned(ink))})
    scale = SIDE / FINE
    return [
        [((x + 0.5) * scale, (y + 0.5) * scale, width[y, x] * scale) for y, x in [*line[:-1:EVERY], line[-1]]]
        for line in lines
    ]


def thinned(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The skeleton, one pixel wide, of what is inked: Zhang and Suen, CACM 27 (1984), 236."""
    ink, before = np.pad(ink, 1), np.zeros(0)
    while not np.array_equal(ink, before):
        before = ink
        for first in (True, False):
            around = [np.roll(ink, (-down, -right), (0, 1)) for down, right in AROUND]
            north, east, south, west = around[::2]
            count = sum(each.astype(int) for each in around)
            parts = sum(
                (~each & after).astype(int) for each, after in zip(around, around[1:] + around[:1], strict=True)
            )
            corner = (north & east & south) | (east & south & west)
            if not first:
                corner = (north & east & west) | (north & south & west)
            ink = ink & ~((count >= 2) & (count <= 6) & (parts == 1) & ~corner)
    return ink[1:-1, 1:-1]


def _traced(skeleton: set[Pixel]) -> list[list[Pixel]]:
    """Lines that cover all pixels of a skeleton; each goes as straight as it can, and joins what is drawn already."""
    free, lines = set(skeleton), list[list[Pixel]]()
    while free:
        # From an end if there is one; else from a place that touches what is drawn.
        start = min(free, key=lambda one: (len(_near(one, free)), one))
        line, heading = [start], (0, 0)
        free.remove(start)
        while near := _near(line[-1], free):
            y, x = line[-1]
            ahead = {one: _turn((one[0] - y, one[1] - x), heading) for one in near}
            line.append(min(near, key=lambda one: ahead[one]))
            free.remove(line[-1])
            back = line[max(0, len(line) - 6)]
            heading = (line[-1][0] - back[0], line[-1][1] - back[1])
        drawn = skeleton - free - {*line}
        before, after = (_near(line[end], drawn)[:1] for end in (0, -1))
        if len(line) > 2 or not before + after:  # else it is the corner of a step
            lines.append(before + line + after)
    return lines


def _near(pixel: Pixel, among: set[Pixel]) -> list[Pixel]:
    """Its neighbours, those beside it first."""
    y, x = pixel
    steps = sorted(product((-1, 0, 1), repeat=2), key=lambda step: abs(step[0]) + abs(step[1]))
    return [(y + down, x + right) for down, right in steps[1:] if (y + down, x + right) in among]


def _turn(step: Pixel, heading: Pixel) -> float:
    """How far a step is from straight on: −1 is straight on, 1 is back."""
    long = np.hypot(*step) * np.hypot(*heading)
    return -(step[0] * heading[0] + step[1] * heading[1]) / max(long, 1e-9)
