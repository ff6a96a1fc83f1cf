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
from page_server import HOSTILE, PageServer, as_ink

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
    assert text(sheet, "#trouble").startswith("The picture cannot be read: it is none of BMP")
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
