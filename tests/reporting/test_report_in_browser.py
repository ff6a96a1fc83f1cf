"""The page of a report in headless Chromium: it asks for nothing, and its tables and charts can be used."""

import json
import re
import subprocess
from pathlib import Path

from browser import needs_browser
from lenetexp.reporting.report_page import render_report
from needs import CHROMIUM
from sample_report import HOSTILE, Page, report

BROWSERS_OWN = ("google.com", "googleapis.com", "gvt1.com")  # whom Chromium itself asks for news


def browse(page: str, folder: Path) -> tuple[str, list[str], list[str]]:
    """The page's tree after its scripts ran, what it wrote to the console, and the addresses that it asked for."""
    (folder / "page.html").write_text(page)
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
            f"--log-net-log={folder / 'net.json'}", f"--user-data-dir={folder / 'profile'}", "--window-size=1000,800",
            "--virtual-time-budget=3000", "--dump-dom", (folder / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    asked = {*re.findall(r'"url":"(\w+://[^"]*)"', (folder / "net.json").read_text())}
    theirs = re.compile(rf"\w+://[^/]*({'|'.join(map(re.escape, BROWSERS_OWN))})/")
    return done.stdout, console, sorted(url for url in asked if not theirs.match(url) and not url.startswith("file:"))


@needs_browser
def test_a_browser_without_network_shows_it_all_and_asks_for_nothing(tmp_path: Path) -> None:
    tree, console, asked = browse(render_report(report(HOSTILE)), tmp_path)
    assert (console, asked) == ([], [])
    assert len(re.findall(r'<svg role="img"[^>]*viewBox', tree)) == 3, "every chart is drawn"
    assert tree.count('aria-pressed="true"') == 3


@needs_browser
def test_the_page_would_be_caught_asking_for_something(tmp_path: Path) -> None:
    """What the test above relies on; and the policy keeps even a tag that got in from asking."""
    image = "<img src='http://example.invalid/x'><script>console.error('boom')</script></body>"
    caught = render_report(report()).replace("</body>", image)
    _, console, asked = browse(caught, tmp_path)
    assert asked == [] and len(console) == 2 and all("Content Security Policy" in line for line in console)
    without = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", caught)
    _, console, asked = browse(without, tmp_path)
    assert asked == ["http://example.invalid/x"] and any("boom" in line for line in console)


ACTS = """
const press = (element) => element.click();
const cells = (table) => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
const said = {};
const table = document.querySelectorAll("table")[1], [first, second] = table.tHead.querySelectorAll("button");
press(first); said.down = cells(table); said.sort = table.tHead.rows[0].cells[0].getAttribute("aria-sort");
press(first); said.up = cells(table);
press([...table.tHead.querySelectorAll("button")].find((button) => button.textContent === "validation"));
said.last = [...table.tBodies[0].rows].at(-1).cells[2].textContent.trim();
const figure = document.querySelectorAll("[data-chart]")[2], svg = figure.querySelector(".plot svg");
const lines = () => figure.querySelectorAll(".plot path.line").length;
const button = figure.querySelector(".legend button");
said.drawn = lines(); press(button); said.off = lines(); said.pressed = button.getAttribute("aria-pressed");
button.focus(); said.reached = document.activeElement === button; press(button); said.on = lines();
const box = svg.getBoundingClientRect();
for (let x = 0; x < box.width; x += 5) {
  svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + x, clientY: box.top + 60 }));
  const tip = figure.querySelector(".tip");
  if (!tip.hidden) said.tip = tip.textContent;
}
document.body.dataset.said = JSON.stringify(said);
"""


@needs_browser
def test_tables_are_sorted_and_curves_switched_and_hovered(tmp_path: Path) -> None:
    page = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", render_report(report()))
    tree, console, _ = browse(page.replace("</body>", f"<script>{ACTS}</script></body>"), tmp_path)
    assert console == []
    said = json.loads(dict(next(attributes for tag, attributes in Page(tree).tags if tag == "body"))["data-said"])
    assert said["down"] == ["0.1", "0.1", "0.001"] and said["up"] == ["0.001", "0.1", "0.1"]
    assert (said["sort"], said["last"]) == ("descending", ""), "empty cells stay last"
    assert (said["drawn"], said["off"], said["on"], said["pressed"]) == (3, 2, 3, "false") and said["reached"]
    assert re.fullmatch(r"0\.\d+, \w+\nepoch [12]: \d\d\.00 %", said["tip"])
