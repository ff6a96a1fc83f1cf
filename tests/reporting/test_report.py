"""The page of a report: it holds everything, lets no name do anything, and needs nothing else."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from math import nan

import pytest

from colours import contrast, mixed
from lenetexp.reporting.report_page import (
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
    render_report,
)
from lenetexp.reporting.report_parts import (
    build_accuracy_charts,
    build_run_curves,
    build_runs_table,
    build_sweep_curves,
)
from lenetexp.sweeps.image_sets import Images, group_by_images
from lenetexp.sweeps.results import group_recipes, sort_best_first
from sample_report import HOSTILE, Page, found, report


def test_a_page_holds_every_part() -> None:
    page = Page(render_report(report()))
    assert page.all("h1").startswith("title relu")
    headings = ["Results", "Accuracy by setting", "Learning curves", "Inside the net", "Mistakes", "To repeat it"]
    assert [text for text in page.texts["h2"] if text.strip()] == headings
    body = page.all("p", "dd", "li", "td", "th", "button", "span", "code", "figcaption", "caption")
    for part in ("asked relu", "a finding about relu", "2 relu", "90.00%", "it diverged relu", "how=relu", "model.how"):
        assert part in body
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3
    assert len([tag for tag, attributes in page.tags if "data-chart" in attributes]) == 3
    assert "[0.1, null, 0.0, true]" in render_report(report()), (
        "a run that diverged before it had an accuracy is drawn, too"
    )


def test_what_a_report_lacks_is_left_out() -> None:
    page = Page(render_report(Report("Run", "r", "asked", [])))
    assert [text for text in page.texts["h2"] if text.strip()] == ["To repeat it"]
    assert not {"img", "figure", "table"} & {tag for tag, _ in page.tags}


def test_hostile_names_are_text() -> None:
    """Wherever a user's own words may be, in the page and in the data of its charts."""
    word = "relu".ljust(len(HOSTILE), "x")
    plain, hostile = Page(render_report(report(word))), Page(render_report(report(HOSTILE)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [[*attributes] for _, attributes in hostile.tags] == [[*attributes] for _, attributes in plain.tags]
    for tag in ("title", "h1", "p", "dd", "li", "td", "th", "code", "figcaption"):
        assert hostile.all(tag).count(HOSTILE) == plain.all(tag).count(word) > 0, tag
    script, data = (
        [text for (tag, attributes), text in scripts_of(page)]
        for page in (render_report(report()), render_report(report(HOSTILE)))
    )
    assert script[1] == data[1], "the script is the same whatever the names are"
    assert json.dumps(HOSTILE) in json.dumps(json.loads(data[0]))


def scripts_of(page: str) -> list[tuple[tuple[str, str], str]]:
    return [
        (("script", attributes), text) for attributes, text in re.findall(r"<script(.*?)>(.*?)</script>", page, re.S)
    ]


def test_a_page_loads_nothing_and_runs_only_its_own_script() -> None:
    text = render_report(report())
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
    text = render_report(replace(report(), tables=[table], curves=[chart], inside=pictures, mistakes=pictures[:1]))
    assert len(text.encode()) < 5_000_000
    assert text.count("<tr>") == MOST_ROWS + 1 + 2 and f"The first {MOST_ROWS} of {2 * MOST_ROWS}" in text
    drawn = json.loads(scripts_of(text)[0][1])[-1]["series"][0]["lines"]
    assert len(drawn) == len(lines) and sum(len(line["points"]) for line in drawn) <= MOST_POINTS
    assert all(line["points"][-1][0] == 99 for line in drawn), "the last epoch of each run is kept"


# ---- what the charts and tables are made of ----


def test_accuracy_against_numbers_and_words() -> None:
    runs = sort_best_first(found("relu"), ["lr", "how"])
    by_lr, by_how = build_accuracy_charts(group_recipes(runs, ["lr", "how"]), ["lr", "how"])
    assert (by_lr.log, by_lr.joined, by_lr.ticks, by_lr.words) == (True, False, None, None), "too few for a grid"
    assert [[(point.x, point.y) for point in line.points] for series in by_lr.series for line in series.lines] == [
        [(0.001, 0.5), (0.1, 0.9), (0.1, None)]
    ]
    assert by_how.words == ["relu", "b"], "the best first"
    grid = [*found("relu"), {**found("relu")[0], "how": "b", "best_val_accuracy": 0.2}]
    by_lr, _ = build_accuracy_charts(group_recipes(sort_best_first(grid, ["lr", "how"]), ["lr", "how"]), ["lr", "how"])
    assert (by_lr.joined, by_lr.ticks, by_lr.heading) == (True, [0.001, 0.1], "how")
    assert [series.name for series in by_lr.series] == ["relu", "b"]


def test_no_colour_means_two_settings() -> None:
    """Words have hues, each key its own; numbers have shades of one colour, each key another."""
    known = {"status": "finished", "reason": "", "before": False, "curve": [], "best_val_accuracy": 0.5}
    colours = []
    for values in (("1", "2"), ("a", "b")), (("a", "b"), ("c", "d", "e")), (("1", "2"), ("3", "4")):
        runs = sort_best_first([{**known, "x": x, "y": y} for x in values[0] for y in values[1]], ["x", "y"])
        charts = build_accuracy_charts(group_recipes(runs, ["x", "y"]), ["x", "y"])
        colours.append([(chart.ramp, chart.first) for chart in charts])
    assert colours == [[(None, 0), (0, 0)], [(None, 0), (None, 3)], [(0, 0), (1, 0)]]


def test_a_sweep_on_two_datasets_has_charts_for_each() -> None:
    known = {"status": "finished", "reason": "", "before": False, "curve": [], "best_val_accuracy": 0.5}
    sets = (Images("digits", "0.1", "0", "a"), Images("MNIST", "0.1", "0", "b"))
    rows = [{**known, "lr": lr, "dataset": one.dataset, "images": one} for one in sets for lr in "12"]
    recipes = group_recipes(sort_best_first(rows, ["lr", "dataset"]), ["lr", "dataset"])
    charts = [
        chart
        for name, lines in group_by_images(recipes)
        for chart in build_accuracy_charts(lines, ["lr", "dataset"], name)
    ]
    assert [chart.title for chart in charts] == ["lr, on digits", "lr, on MNIST"]
    assert all(len(line.points) == 2 for chart in charts for series in chart.series for line in series.lines)


def test_runs_that_differ_only_in_their_seed_share_a_button() -> None:
    seeds = [{**run, "seed": str(seed)} for run in found("relu") for seed in (0, 1)]
    curves = build_sweep_curves(sort_best_first(seeds, ["lr", "how", "seed"]), ["lr", "how", "seed"], ["lr", "how"])
    assert [(series.name, [line.name for line in series.lines]) for series in curves.series] == [
        ("0.1, relu", ["0.1, relu, 0", "0.1, relu, 1"]),
        ("0.001, relu", ["0.001, relu, 0", "0.001, relu, 1"]),
        ("0.1, b", ["0.1, b, 0", "0.1, b, 1"]),
    ]


def test_what_is_not_finite_or_missing_is_not_drawn() -> None:
    (chart,) = build_run_curves({"val/loss": [(1, 2.0), (2, float("inf")), (3, nan)], "train/loss": []})
    assert [(series.name, len(series.lines[0].points)) for series in chart.series] == [("validation", 1)]
    runs = sort_best_first([{"lr": "1", "status": "not run", "reason": "", "before": False}], ["lr"])
    assert not build_sweep_curves(runs, ["lr"], ["lr"]).series
    table = build_runs_table(runs, ["lr"], [Cell("not run")])
    assert (table.columns, [cell.text for cell in table.rows[0]]) == (["lr", "ended"], ["1", "not run"])
    json.loads(scripts_of(render_report(replace(report(), curves=[chart])))[0][1], parse_constant=pytest.fail)


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
    for ramp in ("ramp0", "ramp1"):  # the palest of its shades
        assert contrast(mixed(colours[ramp], colours["page"], 0.45), colours["page"]) >= 2.3, ramp
