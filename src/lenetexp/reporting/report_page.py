"""A report as one HTML file that needs nothing else. The values in it are plain."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent
LARGEST = 750_000  # bytes of a picture: four of these, in base64, leave room for the rest in 5 MB
MOST_ROWS = 1_000  # of a table
MOST_POINTS = 40_000  # of a chart

Pairs = Sequence[tuple[str, str]]


class Point(NamedTuple):
    """A point of a chart, in the units of its axes. A tuple, because the page may hold tens of thousands."""

    x: float
    y: float | None  # none: it diverged before it had a value
    half: float = 0.0  # half the width of its interval
    cross: bool = False  # diverged


@dataclass(frozen=True)
class Line:
    """Points of one line, and the name that hovering shows."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Series:
    """Lines that share a colour and a button."""

    name: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Chart:
    """A chart for report.js: series over numbers or, with `words`, over words, which x counts from 0."""

    title: str
    x: str  # what an axis shows, with its unit
    y: str
    series: Sequence[Series]
    heading: str = ""  # what the names of the series are values of
    words: Sequence[str] | None = None
    ticks: Sequence[float] | None = None  # where x has ticks; none: wherever they fit
    log: bool = False  # x
    percent: bool = False  # y is a share in [0, 1]
    dots: bool = False  # each point shows
    joined: bool = True  # by a line
    ramp: int | None = None  # its series have shades of this colour of report.css, in their order; none: its hues
    first: int = 0  # of these hues


@dataclass(frozen=True)
class Cell:
    """A cell's text, and what it is sorted by: a number, or the text."""

    text: str
    number: float | None = None
    kind: str = ""  # good, fair or bad: how a run ended


@dataclass(frozen=True)
class Table:
    """A table's columns and rows. Columns of `numbers` are aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    @property
    def numbers(self) -> list[bool]:
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.columns)
        return [any(cell.number is not None for cell in column) for column in columns]


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption."""

    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Report:
    """The content of the page, in its order. Empty parts are left out."""

    kind: str  # of what: a sweep, a run
    title: str
    question: str  # in a sentence
    facts: Pairs  # the numbers to see first
    endings: Sequence[Cell] = ()  # how many runs ended how
    findings: Pairs = ()  # sentences, each with a command to follow it or ""
    tables: Sequence[Table] = ()
    by_key: Sequence[Chart] = ()
    curves: Sequence[Chart] = ()
    inside: Sequence[Picture] = ()
    mistakes: Sequence[Picture] = ()
    commands: Pairs = ()  # what for, and the command
    origin: Pairs = ()  # data, code and machine
    recipe: Pairs = ()
    swept: Sequence[str] = field(default=())  # the keys of the recipe that differ between runs


def render_report(report: Report) -> str:
    """Render the page. Every text is escaped; the page's policy lets only its own script run, and nothing load."""
    script, style = ((HERE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    pages = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return pages.get_template("report.html.j2").render(
        report=report,
        charts=[asdict(_thin_chart(chart)) for chart in (*report.by_key, *report.curves)],
        most_rows=MOST_ROWS,
        script=Markup(script),
        style=Markup(style),
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
    )


def _thin_chart(chart: Chart) -> Chart:
    """Thin out a chart so that the page stays small. The last point of each line is kept."""
    count = sum(len(line.points) for series in chart.series for line in series.lines)
    every = max(1, ceil(count / MOST_POINTS))

    def thin(line: Line) -> Line:
        points = line.points[::-every][::-1]
        return Line(line.name, [p if p.y is None else p._replace(y=float(f"{p.y:.6g}")) for p in points])

    return replace(chart, series=[Series(one.name, [*map(thin, one.lines)]) for one in chart.series])
