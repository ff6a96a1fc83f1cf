"""Writes the tables of README.md and docs/history.md, from conf/ and docs/history.csv. Run as a script."""

import csv
import re
from collections.abc import Sequence
from statistics import mean
from typing import Any, get_args

import yaml

from helpers import CONF, PROJECT
from lenetexp.config.targets import LeNetModel
from lenetexp.sweeps.significance import compute_wilson_interval

TEST_IMAGES = 10_000  # MNIST's


def find_options() -> dict[str, list[str]]:
    """Return what can be typed before an option, with the options: of each config group, and of a folder in one."""
    groups: dict[str, list[str]] = {}
    for path in sorted(CONF.glob("*/**/[!_]*.yaml")):
        folder = str(path.parent.relative_to(CONF))
        if folder not in ("local", "hydra/help"):
            name = folder if folder.startswith("hydra/") or "/" not in folder else f"{folder.replace('/', '=', 1)}/…"
            groups.setdefault(name, []).append(path.stem)
    return groups


def read_history() -> list[dict[str, Any]]:
    """Return the rows of docs/history.csv with each seed's error, their mean and the published one, in %."""
    with (PROJECT / "docs/history.csv").open() as file:
        rows: list[dict[str, Any]] = [*csv.DictReader(file)]
    for row in rows:
        recipe = yaml.safe_load((CONF / f"experiment/lecun_1998/{row['recipe']}.yaml").read_text())
        row["errors"] = [float(row[f"seed {seed}"]) for seed in range(3)]
        row["mean"], row["published"] = mean(row["errors"]), 100 * (1 - recipe["published"])
    return rows


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def put_first(names: Sequence[str], first: str | None) -> list[str]:
    return sorted(names, key=lambda name: name != first)


def format_options() -> str:
    """Return the table of what can be chosen, each row's default first; a group with one option is no choice."""
    entries = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    default = {
        key.removeprefix("override "): value for entry in entries if entry != "_self_" for key, value in entry.items()
    }
    net = yaml.safe_load((CONF / f"model/{default['model']}.yaml").read_text())
    rows = {group: names for group, names in find_options().items() if len(names) > 1}
    for name, field in LeNetModel.model_fields.items():
        if values := get_args(field.annotation):
            rows[f"model.{name}"], default[f"model.{name}"] = list(values), net[name]
    cells = [(f"`{key}`", ", ".join(put_first(rows[key], default.get(key)))) for key in sorted(rows)]
    return format_table(("choose", "options"), cells)


def format_history() -> str:
    """Return the table of errors of 1998, published and here."""
    cells = []
    for row in read_history():
        low, high = (100 * (1 - end) for end in reversed(compute_wilson_interval(1 - row["mean"] / 100, TEST_IMAGES)))
        cells.append((
            f"`{row['recipe']}`", row["row"], f"{row['published']:.2f}".removesuffix("0") + " %",
            f"{row['mean']:.2f} %", ", ".join(f"{error:.2f}" for error in row["errors"]),
            f"{low:.2f} to {high:.2f} %", row["seconds"],
        ))  # fmt: skip
    head = ("recipe", "row", "published", "here: mean of the seeds", "seeds", "interval (Wilson, 95 %)", "seconds")
    return format_table(head, cells)


TABLES = {"README.md": format_options, "docs/history.md": format_history}


def write_table(page: str) -> str:
    """Return the page's text with its table, which stands between two comments, as it should be."""
    text = (PROJECT / page).read_text()
    pattern = r"(<!-- python tests/support/doc_tables.py writes this table -->\n).*?(\n<!-- end -->)"
    written, count = re.subn(pattern, rf"\g<1>{TABLES[page]()}\g<2>", text, flags=re.DOTALL)
    assert count == 1, f"{page} has {count} places for its table"
    return written


if __name__ == "__main__":
    for page in TABLES:
        (PROJECT / page).write_text(write_table(page))
