"""The rest of the page in a headless Chromium: photos, test images, keeping, strangers, screens."""

import base64
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from browser import Browser, needs_browser
from drawing import DIGITS, draw, line, settled, text, winners
from helpers import InProcess
from lenetexp.datasets.local import digits
from page_server import HOSTILE, PageServer, as_ink, png_of

pytestmark = needs_browser


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
    choose_photo(sheet, tmp_path / "photo.png")
    sheet.wait("document.querySelector('#steps li')")
    settled(sheet)
    assert sheet.value("window.sent.size") == len(photo)
    assert winners(sheet)[0] == str(int(digits().test.labels[7]))


def choose_photo(sheet: Browser, file: Path) -> None:
    root = sheet.call("DOM.getDocument")["root"]["nodeId"]
    node = sheet.call("DOM.querySelector", nodeId=root, selector="#photo")["nodeId"]
    sheet.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)


def test_a_file_that_is_refused_leaves_the_drawing_and_its_answer(sheet: Browser, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"garbage")
    refusal = "The picture cannot be read: it is none of BMP"
    choose_photo(sheet, tmp_path / "broken.png")
    sheet.wait("!document.getElementById('trouble').hidden")
    settled(sheet)
    assert text(sheet, "#trouble").startswith(refusal) and text(sheet, "#verdict") == "nothing drawn yet"
    draw(sheet, DIGITS[1])
    assert sheet.value("document.getElementById('trouble').hidden"), "something else was done"
    before, pixels = winners(sheet), sheet.value("document.getElementById('canvas').toDataURL()")
    sheet.wait("/say|disagree/.test(document.getElementById('spoken').textContent)")
    choose_photo(sheet, tmp_path / "broken.png")
    sheet.wait("!document.getElementById('trouble').hidden")
    settled(sheet)
    assert text(sheet, "#trouble").startswith(refusal)
    assert winners(sheet) == before and sheet.value("document.getElementById('canvas').toDataURL()") == pixels
    sheet.value("document.getElementById('clear').click()")
    sheet.wait("!document.getElementById('spoken').textContent")
    sheet.events.clear()  # the browser notes the refusals


def test_what_is_unlike_the_training_images_is_doubted(sheet: Browser, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(png_of(Image.fromarray(digits().test.images[7, 0].numpy())))
    choose_photo(sheet, tmp_path / "digit.png")
    sheet.wait("document.querySelector('#steps li')")
    settled(sheet)
    assert sheet.value("document.getElementById('doubt').hidden")
    sheet.value("document.getElementById('clear').click()")
    draw(sheet, [line((0.1, y / 10), (0.9, y / 10)) for y in range(2, 9)])
    assert not sheet.value("document.getElementById('doubt').hidden")
    assert "agree" not in sheet.value("[...document.getElementById('verdict').classList]")
    sheet.wait("/not to be trusted/.test(document.getElementById('spoken').textContent)")


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


def test_names_are_text(sheet: Browser) -> None:
    """One run's name is a script."""
    names = sheet.value("[...document.querySelectorAll('#nets h3')].map((one) => one.textContent)")
    assert HOSTILE in names and "owned" not in sheet.value("document.title")
    assert sheet.value("document.querySelectorAll('h3 script, h3 img').length") == 0


def test_disagreement_is_marked(sheet: Browser, page: PageServer) -> None:
    """A test image that some nets read and others do not; and one that all read."""
    gallery = page.ask("/api/gallery")[1]
    labels = {image["number"]: image["label"] for image in gallery["images"]}
    wrong = [{number for number, _ in mistakes} for mistakes in gallery["mistakes"]]
    divided = next(number for number in labels if 0 < sum(number in each for each in wrong) < len(wrong))
    easy = next(number for number in gallery["samples"] if not any(number in each for each in wrong))
    for number in (divided, easy):
        name = f"test image {number},"
        sheet.value(f"""document.querySelector('.group button[aria-label^="{name}"]').click()""")
        settled(sheet)
        said, label = winners(sheet), str(labels[number])
        assert [guess != label for guess in said] == [number in each for each in wrong]
        odd = sheet.value("[...document.querySelectorAll('#nets .net')].map((net) => net.classList.contains('odd'))")
        assert odd == [number in each for each in wrong]
        agreement = f"all say {label}" if number == easy else f"they disagree: {', '.join(said)}"
        assert text(sheet, "#verdict") == f"{agreement}, it is {label}"
        marks = sheet.value("[...document.getElementById('verdict').classList]")
        assert marks == ["verdict", "agree" if number == easy else "disagree"]


def test_drawings_are_kept_under_their_label_and_can_be_taken_back(sheet: Browser, trained: InProcess) -> None:
    draw(sheet, DIGITS[4])
    assert sheet.value("document.getElementById('keep-it').disabled"), "no class is chosen"
    choose_label(sheet, "4")
    sheet.value("document.getElementById('keep-it').click()")
    sheet.wait("/Kept as/.test(document.getElementById('kept').textContent)")
    assert re.search(
        r"1 kept in kept \(4: 1\). Of these, read correctly: .+: [01]; .+: [01]; .+: [01]", text(sheet, "#kept")
    )
    assert Image.open(trained.cwd / "kept/4/0001.png").size == (28, 28)
    assert sheet.value("document.getElementById('label').value") == ""
    sheet.value("document.getElementById('take-back').click()")
    sheet.wait("/taken back/.test(document.getElementById('kept').textContent)")
    assert text(sheet, "#kept") == "kept/4/0001.png is taken back. 0 kept in kept."
    assert not [*trained.cwd.glob("kept/4/*")] and sheet.value("document.getElementById('take-back').hidden")


def choose_label(sheet: Browser, name: str) -> None:
    sheet.value(f"""(() => {{
      const label = document.getElementById("label");
      label.value = "{name}";
      label.dispatchEvent(new Event("change"));
    }})()""")


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
