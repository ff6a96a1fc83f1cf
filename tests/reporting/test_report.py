"""The page of a report: it holds everything, lets no name do anything, needs nothing else, and works in a browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from math import nan
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from colours import contrast
from lenetexp.reporting.report import (
    HERE,
    LARGEST,
    MOST_POINTS,
    MOST_ROWS,
    Cell,
    Chart,
    Line,
    Picture,
    Point,
    Report,
    Series,
    Table,
    render,
)
from lenetexp.reporting.report_parts import accuracy_by_key, curves_of, curves_of_run, table_of_means, table_of_runs
from lenetexp.sweeps.results import best_first, recipes_of

HOSTILE = (
    """</script><script>document.title = "run"</script><img src=http://example.invalid/x onerror=alert(1)>'"&{{7*7}}"""
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSERS_OWN = ("google.com", "googleapis.com", "gvt1.com")  # whom Chromium itself asks for news


def png(side: int = 8) -> bytes:
    file = BytesIO()
    Image.new("L", (side, side), 100).save(file, "PNG")
    return file.getvalue()


def found(name: str) -> list[dict[str, Any]]:
    """What is known of three runs of which one diverged; `name` is one of the swept values."""
    runs = [
        {"lr": "0.001", "how": name, "status": "finished", "best_val_accuracy": 0.5, "test_accuracy": 0.4},
        {"lr": "0.1", "how": name, "status": "finished", "best_val_accuracy": 0.9, "test_accuracy": 0.8},
        {"lr": "0.1", "how": "b", "status": "diverged", "best_val_accuracy": nan, "reason": f"it diverged {name}"},
    ]
    curve = [(1, 0.3), (2, 0.5)]
    return [{"reason": "", "before": False, "curve": curve, "run_id": f"id{i}", **run} for i, run in enumerate(runs)]


def report(name: str = "relu") -> Report:
    """A report with all of its parts; `name` is wherever a user's own words may be."""
    keys = ["lr", "how"]
    runs = best_first(found(name), keys)
    recipes = recipes_of(runs, keys)
    endings = [Cell(status, kind="good") for status in runs.status]
    pictures = [Picture(f"{which} run: {name}", png()) for which in ("The best", "The worst")]
    return Report(
        "Sweep", f"title {name}", f"asked {name}", [("best run", name)], [Cell(f"2 {name}", kind="bad")],
        [f"a finding about {name}"], [table_of_means(recipes, keys), table_of_runs(runs, keys, endings)],
        accuracy_by_key(recipes, keys), [curves_of(runs, keys, keys)], pictures, pictures[:1],
        [("again", f"python scripts/run.py how={name}")], [("machine", name)],
        [("model.how", name), (name, "1")], [name],
    )  # fmt: skip


class Page(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}  # by the tag that they are in
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.tags[-1][0] if self.tags else "", []).append(data)

    def all(self, *tags: str) -> str:
        return "\n".join(text for tag in tags for text in self.texts.get(tag, []))


def test_a_page_holds_every_part() -> None:
    page = Page(render(report()))
    assert page.all("h1").startswith("title relu")
    headings = ["Results", "Accuracy by setting", "Learning curves", "Inside the net", "Mistakes", "To repeat it"]
    assert [text for text in page.texts["h2"] if text.strip()] == headings
    body = page.all("p", "dd", "li", "td", "th", "button", "span", "code", "figcaption", "caption")
    for part in ("asked relu", "a finding about relu", "2 relu", "90.00%", "it diverged relu", "how=relu", "model.how"):
        assert part in body
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3
    assert len([tag for tag, attributes in page.tags if "data-chart" in attributes]) == 3
    assert "[0.1, null, 0.0, true]" in render(report()), "a run that diverged before it had an accuracy is drawn, too"


def test_what_a_report_lacks_is_left_out() -> None:
    page = Page(render(Report("Run", "r", "asked", [])))
    assert [text for text in page.texts["h2"] if text.strip()] == ["To repeat it"]
    assert not {"img", "figure", "table"} & {tag for tag, _ in page.tags}


def test_hostile_names_are_text() -> None:
    """Wherever a user's own words may be, in the page and in the data of its charts."""
    word = "relu".ljust(len(HOSTILE), "x")
    plain, hostile = Page(render(report(word))), Page(render(report(HOSTILE)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [[*attributes] for _, attributes in hostile.tags] == [[*attributes] for _, attributes in plain.tags]
    for tag in ("title", "h1", "p", "dd", "li", "td", "th", "code", "figcaption"):
        assert hostile.all(tag).count(HOSTILE) == plain.all(tag).count(word) > 0, tag
    script, data = (
        [text for (tag, attributes), text in scripts_of(page)] for page in (render(report()), render(report(HOSTILE)))
    )
    assert script[1] == data[1], "the script is the same whatever the names are"
    assert json.dumps(HOSTILE) in json.dumps(json.loads(data[0]))


def scripts_of(page: str) -> list[tuple[tuple[str, str], str]]:
    return [
        (("script", attributes), text) for attributes, text in re.findall(r"<script(.*?)>(.*?)</script>", page, re.S)
    ]


def test_a_page_loads_nothing_and_runs_only_its_own_script() -> None:
    text = render(report())
    page = Page(text)
    addresses = [
        value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href", "srcset")
    ]
    assert addresses and all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not re.search(r"url\(|@import", text) and not {"link", "iframe", "base", "object"} & {
        t for t, _ in page.tags
    }
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    hashed = base64.b64encode(hashlib.sha256(scripts_of(text)[1][1].encode()).digest()).decode()
    assert {"default-src 'none'", "img-src data:", f"script-src 'sha256-{hashed}'"} <= {*policy.split("; ")}
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_a_page_of_a_large_sweep_is_small() -> None:
    """Under 5 MB with the largest pictures, twice the rows and many times the points that it shows."""
    lines = [
        Line(f"seed={i}", [Point(step, 1 / (step + i + 1)) for step in range(100)])
        for i in range(10 * MOST_POINTS // 100)
    ]
    chart = Chart("c", "epoch", "accuracy", [Series("s", lines)])
    row = [Cell("0.00123"), Cell("98.60%", 0.986123456), Cell("finished", kind="good"), Cell("f" * 32)]
    table = Table("t", ["lr", "validation", "ended", "run"], [row] * (2 * MOST_ROWS))
    pictures = [Picture("p", b"x" * LARGEST)] * 2
    text = render(replace(report(), tables=[table], curves=[chart], inside=pictures, mistakes=pictures[:1]))
    assert len(text.encode()) < 5_000_000
    assert text.count("<tr>") == MOST_ROWS + 1 + 2 and f"The first {MOST_ROWS} of {2 * MOST_ROWS}" in text
    drawn = json.loads(scripts_of(text)[0][1])[-1]["series"][0]["lines"]
    assert len(drawn) == len(lines) and sum(len(line["points"]) for line in drawn) <= MOST_POINTS
    assert all(line["points"][-1][0] == 99 for line in drawn), "the last epoch of each run is kept"


# ---- what the charts and tables are made of ----


def test_accuracy_against_numbers_and_words() -> None:
    runs = best_first(found("relu"), ["lr", "how"])
    by_lr, by_how = accuracy_by_key(recipes_of(runs, ["lr", "how"]), ["lr", "how"])
    assert (by_lr.log, by_lr.joined, by_lr.ticks, by_lr.words) == (True, False, None, None), "too few for a grid"
    assert [[(point.x, point.y) for point in line.points] for series in by_lr.series for line in series.lines] == [
        [(0.001, 0.5), (0.1, 0.9), (0.1, None)]
    ]
    assert by_how.words == ["relu", "b"], "the best first"
    grid = [*found("relu"), {**found("relu")[0], "how": "b", "best_val_accuracy": 0.2}]
    by_lr, _ = accuracy_by_key(recipes_of(best_first(grid, ["lr", "how"]), ["lr", "how"]), ["lr", "how"])
    assert (by_lr.joined, by_lr.ticks, by_lr.heading) == (True, [0.001, 0.1], "how")
    assert [series.name for series in by_lr.series] == ["relu", "b"]


def test_runs_that_differ_only_in_their_seed_share_a_button() -> None:
    seeds = [{**run, "seed": str(seed)} for run in found("relu") for seed in (0, 1)]
    curves = curves_of(best_first(seeds, ["lr", "how", "seed"]), ["lr", "how", "seed"], ["lr", "how"])
    assert [(series.name, [line.name for line in series.lines]) for series in curves.series] == [
        ("0.1, relu", ["0.1, relu, 0", "0.1, relu, 1"]),
        ("0.001, relu", ["0.001, relu, 0", "0.001, relu, 1"]),
        ("0.1, b", ["0.1, b, 0", "0.1, b, 1"]),
    ]


def test_what_is_not_finite_or_missing_is_not_drawn() -> None:
    (chart,) = curves_of_run({"val/loss": [(1, 2.0), (2, float("inf")), (3, nan)], "train/loss": []})
    assert [(series.name, len(series.lines[0].points)) for series in chart.series] == [("validation", 1)]
    runs = best_first([{"lr": "1", "status": "not run", "reason": "", "before": False}], ["lr"])
    assert not curves_of(runs, ["lr"], ["lr"]).series
    table = table_of_runs(runs, ["lr"], [Cell("not run")])
    assert (table.columns, [cell.text for cell in table.rows[0]]) == (["lr", "ended"], ["1", "not run"])
    json.loads(scripts_of(render(replace(report(), curves=[chart])))[0][1], parse_constant=pytest.fail)


# ---- how it looks ----


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_lines_can_be_told_from_the_page(scheme: int) -> None:
    """WCAG's 4.5 for text and 3 for lines."""
    blocks = re.findall(r":root \{(.*?)\}", (HERE / "report.css").read_text(), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", blocks[scheme]))
    assert len(colours) > 20
    for text in ("ink", "quiet", "link"):
        assert min(contrast(colours[text], colours[back]) for back in ("page", "panel")) >= 4.5, text
    for kind in ("good", "fair", "bad"):
        assert contrast(colours[kind], colours[f"{kind}-back"]) >= 4.5, kind
    for i in range(8):
        assert contrast(colours[f"c{i}"], colours["page"]) >= 3, i


# ---- in a browser ----

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


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
    tree, console, asked = browse(render(report(HOSTILE)), tmp_path)
    assert (console, asked) == ([], [])
    assert len(re.findall(r'<svg role="img"[^>]*viewBox', tree)) == 3, "every chart is drawn"
    assert tree.count('aria-pressed="true"') == 3


@needs_browser
def test_the_page_would_be_caught_asking_for_something(tmp_path: Path) -> None:
    """What the test above relies on; and the policy keeps even a tag that got in from asking."""
    image = "<img src='http://example.invalid/x'><script>console.error('boom')</script></body>"
    caught = render(report()).replace("</body>", image)
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
    page = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", render(report()))
    tree, console, _ = browse(page.replace("</body>", f"<script>{ACTS}</script></body>"), tmp_path)
    assert console == []
    said = json.loads(dict(next(attributes for tag, attributes in Page(tree).tags if tag == "body"))["data-said"])
    assert said["down"] == ["0.1", "0.1", "0.001"] and said["up"] == ["0.001", "0.1", "0.1"]
    assert (said["sort"], said["last"]) == ("descending", ""), "empty cells stay last"
    assert (said["drawn"], said["off"], said["on"], said["pressed"]) == (3, 2, 3, "false") and said["reached"]
    assert re.fullmatch(r"0\.\d+, \w+\nepoch [12]: \d\d\.00 %", said["tip"])
