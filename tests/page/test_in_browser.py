"""The page in a headless Chromium that is driven by real pointer events and keys."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from math import cos, pi, sin
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from browser import Browser, needs_browser
from helpers import InProcess, composed, in_process
from lenetexp import predict
from lenetexp.config.commands import PredictConfig
from lenetexp.config.schema import check
from lenetexp.datasets.local import digits
from page_server import PageServer, as_ink

pytestmark = needs_browser

HOSTILE = """<script>document.title = "owned"</script><img src=x onerror="document.title = 'owned'">"""
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> InProcess:
    """A folder with three finished runs; the name of one would do something in a page that let it."""
    with pytest.MonkeyPatch.context() as patch:
        store = in_process(tmp_path_factory.mktemp("trained"), patch, empty_store)
        store.train("epochs=10", "model.activation=tanh", recipe=())
        store.train("epochs=3", "model.activation=sigmoid", recipe=())
        store.train("epochs=2", "model=mlp", recipe=())
        store.client.set_tag(store.runs[0].info.run_id, "mlflow.runName", HOSTILE)
        return store


@pytest.fixture(scope="module")
def page(trained: InProcess) -> Iterator[PageServer]:
    ids = ",".join(run.info.run_id for run in reversed(trained.runs))
    server = PageServer(trained.cwd, f"run=[{ids}]", "keep=kept")
    yield server
    assert server.stop() == (0, "")


@pytest.fixture(scope="module")
def browser(page: PageServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def sheet(page: PageServer, browser: Browser) -> Iterator[Browser]:
    """The page as it opens, with whatever it sends noted."""
    browser.resize(1280, 900)
    browser.open(page.address)
    browser.wait("document.querySelectorAll('.group button').length")
    browser.value("""(() => {
      const fetch = window.fetch;
      window.fetch = (path, options) => { if (options?.body) window.sent = options.body; return fetch(path, options); };
    })()""")
    yield browser
    assert browser.complaints() == []


def draw(browser: Browser, strokes: Sequence[Points], pause: float = 0.0) -> None:
    """Draws with the mouse on a clear sheet, and waits for the bars of all of it."""
    left, top, side = place(browser)
    for points in strokes:
        browser.drag([(left + x * side, top + y * side) for x, y in points], pause)
    settled(browser)


def place(browser: Browser) -> tuple[float, float, float]:
    """Where the sheet is, in pixels of the window: left, top and side."""
    box = "document.getElementById('canvas').getBoundingClientRect()"
    left, top, side = browser.value(f"(({{left, top, width}}) => [left, top, width])({box})")
    return left, top, side


def settled(browser: Browser) -> None:
    """Until nothing is asked any more."""
    browser.wait("document.body.dataset.settled === 'true'")


def text(browser: Browser, selector: str) -> str:
    return str(browser.value(f"document.querySelector({selector!r}).textContent"))


def winners(browser: Browser) -> list[str]:
    return list(browser.value("[...document.querySelectorAll('.winner b')].map((one) => one.textContent)"))


def test_each_digit_drawn_by_pointer_is_answered_as_by_predict(
    sheet: Browser, trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The page shows for each digit what predict.py prints for the pixels that the page sent."""
    monkeypatch.chdir(tmp_path)
    shown = []
    for digit, strokes in enumerate(DIGITS):
        draw(sheet, strokes)
        sent = sheet.value("btoa(String.fromCharCode(...window.sent))")
        Path(f"{digit}.bmp").write_bytes(base64.b64decode(sent))
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
        predict.run(check(PredictConfig, values), values, Path("predicted"))
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
    assert len(times) == 50 and median(times) < 1_000


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
    reached = []
    for _ in range(9):
        sheet.press("Tab")
        reached.append(sheet.value("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    assert reached[:7] == ["undo", "clear", "photo", "invert", "thickness", "label", "keep-it"]
    assert str(reached[7]).startswith("test image ")
    sheet.press("Enter", text="\r")
    settled(sheet)
    assert ", it is 0" in text(sheet, "#verdict")


def test_everything_has_a_name_for_a_screen_reader(sheet: Browser) -> None:
    draw(sheet, DIGITS[0])
    sheet.wait("document.querySelectorAll('#layers .layer').length")
    sheet.call("Accessibility.enable")
    nodes = sheet.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "combobox", "img", "image", "application", "textbox"}
    named = [node for node in nodes if node.get("role", {}).get("value") in roles and not node.get("ignored")]
    assert len(named) > 40
    assert [node for node in named if not node.get("name", {}).get("value")] == []


def test_a_photo_is_read_from_its_own_pixels(sheet: Browser, tmp_path: Path) -> None:
    photo = as_ink(digits().test.images[7, 0].numpy(), side=600)
    (tmp_path / "photo.png").write_bytes(photo)
    root = sheet.call("DOM.getDocument")["root"]["nodeId"]
    node = sheet.call("DOM.querySelector", nodeId=root, selector="#photo")["nodeId"]
    sheet.call("DOM.setFileInputFiles", files=[str(tmp_path / "photo.png")], nodeId=node)
    sheet.wait("document.querySelector('#steps li')")
    settled(sheet)
    assert sheet.value("window.sent.size") == len(photo)
    assert winners(sheet)[0] == str(int(digits().test.labels[7]))
    (tmp_path / "broken.png").write_bytes(b"garbage")
    sheet.call("DOM.setFileInputFiles", files=[str(tmp_path / "broken.png")], nodeId=node)
    sheet.wait("!document.getElementById('trouble').hidden")
    assert text(sheet, "#trouble").startswith("The picture cannot be read as a picture")
    sheet.events.clear()  # the browser notes the refusal


def test_a_pasted_picture_is_read(sheet: Browser) -> None:
    picture = base64.b64encode(as_ink(digits().test.images[3, 0].numpy())).decode()
    sheet.value(f"""(() => {{
      const bytes = Uint8Array.from(atob("{picture}"), (letter) => letter.charCodeAt(0));
      for (const kind of ["paste", "drop"]) {{
        const data = new DataTransfer();
        data.items.add(new File([bytes], "a.png", {{ type: "image/png" }}));
        document.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, {{ clipboardData: data }})
          : new DragEvent(kind, {{ dataTransfer: data, cancelable: true }}));
      }}
    }})()""")
    sheet.wait("document.querySelector('#steps li')")
    settled(sheet)
    assert winners(sheet)[0] == str(int(digits().test.labels[3]))


def test_names_are_text_and_disagreement_is_marked(sheet: Browser, trained: InProcess) -> None:
    """One run's name is a script; a mistake of one net that another does not make is clicked on."""
    names = sheet.value("[...document.querySelectorAll('#nets h3')].map((one) => one.textContent)")
    assert HOSTILE in names and "owned" not in sheet.value("document.title")
    assert sheet.value("document.querySelectorAll('h3 script, h3 img').length") == 0
    sheet.value("""(() => {
      const groups = [...document.querySelectorAll(".group")];
      groups.at(-1).querySelector("button").click();
    })()""")
    settled(sheet)
    assert len(set(winners(sheet))) > 1 or "all say" in text(sheet, "#verdict")
    assert sheet.value("document.querySelectorAll('.net.odd').length") >= 1
    assert "disagree" in sheet.value("document.getElementById('verdict').className")


def test_drawings_are_kept_under_their_label(sheet: Browser, trained: InProcess) -> None:
    draw(sheet, DIGITS[4])
    sheet.value("document.getElementById('label').value = '4'; document.getElementById('keep-it').click()")
    sheet.wait("/Kept as/.test(document.getElementById('kept').textContent)")
    assert re.search(
        r"1 kept in kept \(4: 1\). Of these, read correctly: .+: [01]; .+: [01]; .+: [01]", text(sheet, "#kept")
    )
    assert Image.open(trained.cwd / "kept/4/0001.png").size == (28, 28)


def test_the_page_asks_nobody_else_and_says_when_its_program_has_ended(sheet: Browser, page: PageServer) -> None:
    asked = sheet.value("performance.getEntriesByType('resource').map((one) => one.name)")
    assert asked and all(str(url).startswith((page.address, "data:")) for url in asked)
    sheet.value("window.fetch = () => Promise.reject(new Error('gone'))")
    draw(sheet, [line((0.2, 0.2), (0.4, 0.4))])
    assert "has it been ended?" in text(sheet, "#trouble")


def test_a_strangers_page_gets_nothing(page: PageServer, browser: Browser, trained: InProcess) -> None:
    """A page of another origin asks, sends and embeds, as far as the browser lets it."""
    evil = f"""<img src="{page.address}/api/test/0"><iframe src="{page.address}"></iframe><script>
      const body = new Blob(["x"]);
      const post = (path, options) => fetch("{page.address}" + path, {{ method: "POST", body, ...options }});
      Promise.allSettled([
        post("/api/answer"), post("/api/answer", {{ mode: "no-cors" }}),
        post("/api/keep?label=1", {{ mode: "no-cors" }}), fetch("{page.address}/api/about"),
      ]).then((all) => {{ document.title = all.map((one) => one.value?.type ?? "refused").join(); }});
    </script>""".encode()

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(evil)

        def log_message(self, *_: Any) -> None:
            pass

    before = page.ask("/api/kept")
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        Thread(target=stranger.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{stranger.server_port}/")
        browser.wait("document.title")
        assert browser.value("document.title") == "refused,refused,refused,refused"
        assert browser.value("document.images[0].naturalWidth") == 0
        assert browser.value("document.querySelector('iframe').contentDocument") is None
        stranger.shutdown()
    assert page.ask("/api/kept") == before
    browser.events.clear()


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_is_wider_than_the_screen(sheet: Browser, width: int) -> None:
    sheet.resize(width, 800)
    draw(sheet, DIGITS[8])
    assert sheet.value("document.documentElement.scrollWidth") <= width
