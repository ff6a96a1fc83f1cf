"""A report with all of its parts, and its page as a browser takes it apart."""

from html.parser import HTMLParser
from io import BytesIO
from math import nan
from typing import Any

from PIL import Image

from lenetexp.reporting.report_page import Cell, Picture, Report
from lenetexp.reporting.report_parts import (
    build_accuracy_charts,
    build_means_table,
    build_runs_table,
    build_sweep_curves,
)
from lenetexp.sweeps.results import group_recipes, sort_best_first

HOSTILE = (
    """</script><script>document.title = "run"</script><img src=http://example.invalid/x onerror=alert(1)>'"&{{7*7}}"""
)


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
    runs = sort_best_first(found(name), keys)
    recipes = group_recipes(runs, keys)
    endings = [Cell(status, kind="good") for status in runs.status]
    pictures = [Picture(f"{which} run: {name}", png()) for which in ("The best", "The worst")]
    return Report(
        "Sweep", f"title {name}", f"asked {name}", [("best run", name)], [Cell(f"2 {name}", kind="bad")],
        [(f"a finding about {name}", f"python {name}")],
        [build_means_table(recipes, keys), build_runs_table(runs, keys, endings)],
        build_accuracy_charts(recipes, keys), [build_sweep_curves(runs, keys, keys)], pictures, pictures[:1],
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
