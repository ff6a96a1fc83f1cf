"""What a hand draws on the page in a browser, and what the page then says."""

from base64 import b64decode
from collections.abc import Sequence
from itertools import pairwise
from math import cos, pi, sin
from statistics import median

import numpy as np
from numpy.typing import NDArray

from browser import Browser
from strokes import SIDE, strokes_of

Points = list[tuple[float, float]]


def arc(x: float, y: float, wide: float, high: float, start: float, end: float) -> Points:
    """Points on an ellipse, in shares of the sheet; angles in turns, clockwise from the right."""
    angles = [2 * pi * (start + (end - start) * i / 24) for i in range(25)]
    return [(x + wide * cos(angle), y + high * sin(angle)) for angle in angles]


def line(*corners: tuple[float, float]) -> Points:
    return [
        (x + (to_x - x) * i / 8, y + (to_y - y) * i / 8) for (x, y), (to_x, to_y) in pairwise(corners) for i in range(9)
    ]


# As one writes them, a list of strokes each.
DIGITS: list[list[Points]] = [
    [arc(0.5, 0.5, 0.2, 0.32, -0.25, 0.75)],
    [line((0.52, 0.18), (0.48, 0.82))],
    [arc(0.5, 0.35, 0.18, 0.16, -0.5, 0.1) + line((0.64, 0.45), (0.32, 0.8), (0.72, 0.8))],
    [arc(0.48, 0.34, 0.17, 0.16, -0.45, 0.25) + arc(0.48, 0.66, 0.2, 0.17, -0.25, 0.42)],
    [line((0.36, 0.2), (0.3, 0.52), (0.68, 0.5)), line((0.64, 0.2), (0.6, 0.84))],
    [line((0.68, 0.2), (0.38, 0.2), (0.36, 0.45)) + arc(0.46, 0.62, 0.2, 0.18, -0.3, 0.4)],
    [line((0.6, 0.16), (0.42, 0.4), (0.35, 0.62)) + arc(0.5, 0.66, 0.15, 0.15, -0.5, 0.5)],
    [line((0.3, 0.22), (0.7, 0.22), (0.45, 0.82))],
    [arc(0.5, 0.34, 0.14, 0.15, 0.25, -0.75) + arc(0.5, 0.66, 0.17, 0.17, -0.25, 0.75)],
    [arc(0.5, 0.36, 0.16, 0.17, 0, -1) + line((0.66, 0.36), (0.62, 0.6), (0.56, 0.84))],
]


def draw(browser: Browser, strokes: Sequence[Points], pause: float = 0.0) -> None:
    """Draws with the mouse on a clear sheet, and waits for the bars of all of it."""
    left, top, side = place(browser)
    for points in strokes:
        browser.drag([(left + x * side, top + y * side) for x, y in points], pause)
    settled(browser)


def redraw(browser: Browser, image: NDArray[np.uint8]) -> None:
    """Draws a 28×28 digit on a clear sheet with a pen, which presses harder where the digit is wider."""
    strokes = strokes_of(image)
    thickness = min(44, max(6, round(median(width for stroke in strokes for *_, width in stroke))))
    browser.value(f"document.getElementById('thickness').value = {thickness}")
    left, top, side = place(browser)
    for stroke in strokes:
        # The page's pen draws half as wide with the least pressure, and half as wide again with the most.
        pressures = [min(1, max(0.01, width / thickness - 0.5)) for *_, width in stroke]
        browser.drag([(left + x / SIDE * side, top + y / SIDE * side) for x, y, _ in stroke], pressures=pressures)
    settled(browser)


def place(browser: Browser) -> tuple[float, float, float]:
    """Where the sheet is, in pixels of the window: left, top and side."""
    box = "document.getElementById('canvas').getBoundingClientRect()"
    left, top, side = browser.value(f"(({{left, top, width}}) => [left, top, width])({box})")
    return left, top, side


def settled(browser: Browser) -> None:
    """Until nothing is asked any more."""
    browser.wait("document.body.dataset.settled === 'true'")


def sent(browser: Browser) -> bytes:
    """The file that the page sent last, as the fixture `sheet` notes it."""
    return b64decode(browser.value("btoa(String.fromCharCode(...window.sent))"))


def text(browser: Browser, selector: str) -> str:
    return str(browser.value(f"document.querySelector({selector!r}).textContent"))


def winners(browser: Browser) -> list[str]:
    return list(browser.value("[...document.querySelectorAll('.winner b')].map((one) => one.textContent)"))
