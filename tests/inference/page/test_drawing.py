"""Drawing on the page in a headless Chromium, by real pointer events and keys."""

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import Browser, needs_browser
from drawing import DIGITS, draw, line, place, redraw, sent, settled, text, winners
from helpers import InProcess, composed
from lenetexp import predict
from lenetexp.config.commands import PredictConfig
from lenetexp.config.schema import check_config
from lenetexp.datasets.splits import Split
from lenetexp.inference.page.answer import ObservedNet, answer_picture

pytestmark = needs_browser


def test_each_digit_drawn_by_pointer_is_answered_as_by_predict(
    sheet: Browser, trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The page shows for each digit what predict.py prints for the pixels that the page sent."""
    monkeypatch.chdir(tmp_path)
    shown = []
    for digit, strokes in enumerate(DIGITS):
        draw(sheet, strokes)
        Path(f"{digit}.bmp").write_bytes(sent(sheet))
        shown.append(sheet.value(
            "[...document.querySelectorAll('#nets .net')].map((net) => [...net.querySelectorAll('.bars li')]"
            ".map((row) => `${row.children[0].textContent}: ${row.children[2].textContent.replace(/\\s/, '')}`))"
        ))  # fmt: skip
        sheet.value("document.getElementById('clear').click()")
        settled(sheet)
    names = [Path(f"{digit}.bmp") for digit in range(10)]
    assert all(Image.open(name).size == (140, 140) and Image.open(name).mode == "L" for name in names)
    right = 0
    for net, run in enumerate(reversed(trained.runs)):
        words = [f"run={run.info.run_id}", f"images={tmp_path}", "probabilities=true", f"tracking.uri={trained.uri}"]
        values = composed("device=cpu", *words, name="predict")
        predict.run(check_config(PredictConfig, values), values, Path("predicted"))
        out = capsys.readouterr().out
        said = [line.split("  ")[1:] for line in out.splitlines() if line.startswith("  0: ")]
        assert said == [rows[net] for rows in shown]
        guesses = re.findall(r'\.bmp: predicted: "(\d)"', out)
        right = max(right, sum(guess == str(digit) for digit, guess in enumerate(guesses)))
    assert right >= 8, "the best net reads the strokes"


def test_steps_maps_units_and_bars_follow(sheet: Browser) -> None:
    assert text(sheet, "#verdict") == "nothing drawn yet" and sheet.value("document.getElementById('inside').hidden")
    draw(sheet, DIGITS[7])
    sheet.wait("document.querySelectorAll('#layers .layer').length === 6 + 6 + 1")
    captions = sheet.value("[...document.querySelectorAll('#layers .layer figcaption')].map((one) => one.textContent)")
    assert captions[0].startswith("c1 6 maps of 28×28") and captions[4].startswith("c5 120 units")
    assert len(sheet.value("[...document.querySelectorAll('#steps figcaption')].map((one) => one.textContent)")) == 4
    blank = (
        "[...document.querySelectorAll('#layers canvas, #steps canvas')].filter((one) => new Set(one.getContext('2d')"
    )
    assert sheet.value(f"{blank}.getImageData(0, 0, one.width, one.height).data).size < 3).length") == 0
    before = sheet.value("document.querySelector('#layers canvas').toDataURL()")
    draw(sheet, DIGITS[1])
    sheet.wait(f"document.querySelector('#layers canvas').toDataURL() !== {json.dumps(before)}")


def test_the_bars_follow_the_pen(sheet: Browser, capsys: pytest.CaptureFixture[str]) -> None:
    """The time from each of 50 pointer events to the bars is measured; how short it is depends on the machine."""
    draw(sheet, DIGITS[2])  # the first answers are slower
    sheet.value("document.getElementById('clear').click()")
    settled(sheet)
    sheet.value("document.body.dataset.latencies = '[]'")
    draw(sheet, [*DIGITS[8], *DIGITS[3]], pause=0.016)
    times = json.loads(sheet.value("document.body.dataset.latencies"))[-50:]
    with capsys.disabled():
        print(f"\npointer event to bars, {len(times)} events: median {median(times)} ms, longest {max(times)} ms")
    assert len(times) == 50, "each event is answered by bars"


@pytest.mark.parametrize("count", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_mnist_redrawn_with_a_pen_is_read_as_well_as_it_is(
    count: int, sheet: Browser, knows_mnist: tuple[ObservedNet, Split]
) -> None:
    """What the page sends of a digit's strokes, with the digit's own width: at most one more or less is read."""
    net, test = knows_mnist
    right = np.zeros(2, int)
    for image, label in zip(test.images[:count].numpy(), test.labels.tolist(), strict=False):
        redraw(sheet, image[0])
        right += [net.observe(image, 0).winner == label, answer_picture([net], sent(sheet)).nets[0].winner == label]
        sheet.value("document.getElementById('clear').click()")
        settled(sheet)
    assert abs(right[0] - right[1]) <= 1 and right[0] >= 0.9 * count, right


def test_a_finger_draws_and_the_page_stays_where_it_is(sheet: Browser) -> None:
    sheet.resize(390, 700)
    left, top, side = place(sheet)
    points = [(left + x * side, top + y * side) for x, y in DIGITS[1][0]]
    for i, (x, y) in enumerate(points):
        kind = "touchMove" if i else "touchStart"
        sheet.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
    sheet.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    sheet.wait("document.querySelector('#steps li')")
    settled(sheet)
    assert winners(sheet)[0] == "1" and sheet.value("scrollY") == 0


def test_undo_clear_thickness_and_invert(sheet: Browser) -> None:
    ink = "(() => { const d = document.getElementById('canvas').getContext('2d').getImageData(0, 0, 280, 280).data;"
    ink += " let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] < 128; return n; })()"
    assert sheet.value("document.getElementById('undo').disabled && document.getElementById('clear').disabled")
    draw(sheet, DIGITS[1])
    thin = sheet.value(ink)
    sheet.value("document.getElementById('thickness').value = 44")
    draw(sheet, [line((0.2, 0.5), (0.8, 0.5))])
    both = sheet.value(ink)
    assert both > 2 * thin > 0
    sheet.press("z", "KeyZ", modifiers=2)
    assert sheet.value(ink) == thin
    sheet.value("document.getElementById('clear').click()")
    assert sheet.value(ink) == 0
    settled(sheet)
    assert text(sheet, "#verdict") == "nothing drawn yet"
    sheet.value("document.getElementById('undo').click()")
    assert sheet.value(ink) == thin, "clearing is undone, too"
    settled(sheet)
    said = winners(sheet)
    sheet.value("document.getElementById('invert').click()")
    settled(sheet)
    assert sheet.value(ink) > 70_000 and winners(sheet) == said, "white on black is read as black on white"


def test_the_first_dot_of_the_thinnest_pen_is_no_mistake(sheet: Browser) -> None:
    sheet.value("document.getElementById('thickness').value = 6")
    draw(sheet, [[(0.31, 0.43)]])
    assert sheet.value("document.getElementById('trouble').hidden") and text(sheet, "#verdict") != "nothing drawn yet"


def test_with_keys_alone_one_draws_and_reaches_everything(sheet: Browser) -> None:
    sheet.press("Tab")
    assert sheet.value("document.activeElement.id") == "canvas"
    for _ in range(12):
        sheet.press("ArrowUp")
    sheet.press(" ", "Space", " ")
    for _ in range(24):
        sheet.press("ArrowDown")
    sheet.press(" ", "Space", " ")
    settled(sheet)
    assert winners(sheet)[0] == "1" and text(sheet, "#verdict") != "nothing drawn yet"
    sheet.wait("/say|says/.test(document.getElementById('spoken').textContent)")
    sheet.value("document.getElementById('label').value = '1'")
    sheet.value("document.getElementById('label').dispatchEvent(new Event('change'))")
    reached = []
    for _ in range(9):
        sheet.press("Tab")
        reached.append(sheet.value("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    assert reached[:7] == ["undo", "clear", "photo", "invert", "thickness", "label", "keep-it"]
    assert str(reached[7]).startswith("test image ")
    sheet.press("Enter", text="\r")
    settled(sheet)
    assert ", it is 0" in text(sheet, "#verdict")
