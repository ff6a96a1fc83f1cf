"""A report to share, of a sweep or of one run: scripts/report.py, and at the end of every sweep."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from pandas import DataFrame

from lenetexp.config.commands import ReportConfig
from lenetexp.config.identity import short, swept_name
from lenetexp.errors import UserError, counted, one_line
from lenetexp.reporting.report import Cell, Report, render
from lenetexp.reporting.report_parts import (
    accuracy_by_key,
    curves_of,
    curves_of_run,
    ordered,
    table_of_means,
    table_of_runs,
)  # fmt: skip
from lenetexp.reporting.terminal import rows, shown
from lenetexp.sweeps.findings import findings
from lenetexp.sweeps.repeat import Files
from lenetexp.sweeps.results import RESULTS, SEED, has_means, read_index, recipes_of, results_of, row_of, runs_of
from lenetexp.tracking.names import BEST_ACCURACY, BEST_EPOCH, SERIES, TEST_ACCURACY, Tag
from lenetexp.tracking.query import RecordedRun, children, find_run, find_sweep, get_run
from lenetexp.tracking.recorder import Recorder
from lenetexp.tracking.store import open_store

NAME = "report.html"
MOST_VALUES = 8  # of a key, in the sentence that says what was asked
GOOD, FAIR = ("finished", "learned"), ("pruned", "killed", "not run", "running")  # all other endings are bad


def report(settings: ReportConfig, config: dict[str, Any], folder: Path) -> None:
    """Writes the report of a sweep or of a run as report.html into `folder`; raises `UserError` if there is none."""
    store = open_store(settings.tracking, create=False)
    if settings.run is None:
        sweep = find_sweep(store, settings.which)
        index = read_index(sweep)
        page = of_sweep(sweep, runs_of(store, sweep), index["keys"], index.get("command", ()))
    else:
        run = find_run(store, settings.run)
        if run.is_sweep:
            raise UserError(f"run={run.run_id}: is a sweep; its report: sweep={run.run_id}")
        page = of_run(run)
    path = folder / NAME
    path.write_text(render(page), encoding="utf-8")
    print(rows([("report", shown(path))]))


def add_report(recorder: Recorder, runs: DataFrame, keys: Sequence[str], folder: Path, command: Sequence[str]) -> None:
    """Writes a sweep's report into its folder and its run; a note if that fails, as the results are there without."""
    try:
        sweep = get_run(recorder.store, recorder.run_id)
        path = folder / NAME
        path.write_text(render(of_sweep(sweep, runs, keys, command)), encoding="utf-8")
        recorder.artifacts(path)
    except Exception as error:  # whatever it is, it must not end the sweep
        said = f"{type(error).__name__}: {one_line(error)[:200]}"
        print(f"note: no report ({said}); later: python scripts/report.py sweep={recorder.run_id}", flush=True)
        return
    widest = "best settings" if has_means(runs, recipes_of(runs, keys), keys) else "best run"
    print(rows([("report".ljust(len(widest)), shown(path))]), flush=True)  # below the rows of the results


def of_sweep(sweep: RecordedRun, runs: DataFrame, keys: Sequence[str], command: Sequence[str] = ()) -> Report:
    """The report of a sweep with these `runs`, as of `runs_of`; `command` holds the words of its command line."""
    assert sweep.store is not None
    recorded = {run.run_id: run for run in children(sweep.store, sweep.run_id)}
    recipes, results = recipes_of(runs, keys), results_of(runs)
    means = SEED in keys and len(recipes) < len(runs)
    others = [key for key in keys if key != SEED or not means]
    ranked = runs.loc[recipes.best].dropna(subset="best_val_accuracy")  # not the luckiest run of all
    ids = [*ranked.run_id[:1], *results.run_id[::-1]]
    best, worst = ([recorded.get(one) or get_run(sweep.store, one) for one in dict.fromkeys(ids[:2])] + [None] * 2)[:2]
    endings = [ending(status, recorded.get(run_id)) for run_id, status in zip(runs.run_id, runs.status, strict=True)]
    of_best = Files(best or next(iter(recorded.values()), sweep))
    facts = [("runs", str(len(runs))), ("began", _time(sweep))]
    tables = [table_of_runs(runs, keys, endings)]
    if means:
        tables.insert(0, table_of_means(recipes, others))
        first = recipes.iloc[0]
        number = {
            "mean validation accuracy": first.accuracy,
            "± (95 %)": first.half_width,
            "mean test accuracy": first.test,
        }
        numbers = [(name, f"{value:.2%}") for name, value in number.items() if isfinite(value)]
        name = swept_name(first[others].to_dict())
        facts = [*([("best setting", name)] if name else []), *numbers, *facts]
    if best is not None and not means:
        facts = [("best run", best.name), *_reached(best), *facts]
    counts = Counter((cell.text, cell.kind) for cell in endings)
    pair = [(best, "best"), (worst, "worst")]
    return Report(
        kind="Sweep",
        title=sweep.name,
        asked=_question(runs, keys, of_best),
        facts=facts,
        endings=[Cell(f"{count} {text}", kind=kind) for (text, kind), count in counts.most_common()],
        findings=findings(recipes, [key for key in keys if key != SEED], command).sentences,
        tables=tables,
        by_key=accuracy_by_key(recipes, others),
        curves=[curves_of(runs, keys, others)],
        inside=[
            one for run, which in pair if run for one in Files(run).picture("inside", f"The {which} run: {run.name}")
        ],
        mistakes=of_best.picture("mistakes", f"The best run: {of_best.run.name}"),
        commands=[
            *of_best.commands("the whole sweep"),
            ("its table and figures again", f"python scripts/compare.py sweep={sweep.run_id}"),
            ("this report again", f"python scripts/report.py sweep={sweep.run_id}"),
        ],
        origin=[("record", f"sweep {sweep.run_id} in {sweep.store.shown}"), *of_best.origin],
        recipe=of_best.recipe,
        swept=keys,
    )


def of_run(run: RecordedRun) -> Report:
    """The report of one run."""
    assert run.store is not None
    row, files = row_of(run), Files(run)
    facts = [*_reached(run), ("ended", ending(row["status"], run).text), ("began", _time(run))]
    if BEST_EPOCH in run.metrics:
        facts.insert(2, ("best epoch", f"{run.metrics[BEST_EPOCH]:.0f}"))
    histories = {key: [(metric.step, metric.value) for metric in run.history(key)] for key in SERIES[:4]}
    return Report(
        kind="Run",
        title=run.name,
        asked=f"One run of {files.summary}.",
        facts=facts,
        findings=[row["reason"]] if row["reason"] else [],
        curves=curves_of_run(histories),
        inside=files.picture("inside", "Layer by layer"),
        mistakes=files.picture("mistakes", "Test images that it takes for another class with the most confidence"),
        commands=[
            *files.commands("the sweep that it is a run of"),
            ("this report again", f"python scripts/report.py run={run.run_id}"),
        ],
        origin=[("record", f"run {run.run_id} in {run.store.shown}"), *files.origin],
        recipe=files.recipe,
        swept=[*files.swept],
    )


def ending(status: str, run: RecordedRun | None) -> Cell:
    """How a run ended: its verdict if it has one, else its status, as the column of `runs_of`."""
    text = (run.tags.get(Tag.VERDICT) if run and status in RESULTS else None) or status
    return Cell(text, kind="good" if text in GOOD else "fair" if text in FAIR else "bad")


def _question(runs: DataFrame, keys: Sequence[str], files: Files) -> str:
    """What a sweep asks."""
    varied = []
    for key in keys:
        values, numeric = ordered(runs[key], runs.best_val_accuracy)
        many = len(values) > MOST_VALUES
        listed = f"{len(values)} values" if many else ", ".join(map(short, values))
        varied.append(
            f"{key} ({listed}{f' from {short(values[0])} to {short(values[-1])}' if many and numeric else ''})"
        )
    net = dict(files.recipe).get("model._target_", "").rpartition(".")[2] or "the net"
    data = "" if any(key.startswith("dataset") for key in keys) else files.dataset.get("name", "")
    what = " and ".join(filter(None, [", ".join(varied[:-1]), *varied[-1:]]))
    rest = f"{counted(len(runs), 'run')}; everything else is as in the recipe below."
    return f"How does the validation accuracy of {net}{f' on {data}' if data else ''} change with {what}? {rest}"


def _reached(run: RecordedRun) -> list[tuple[str, str]]:
    names = (("validation accuracy", BEST_ACCURACY), ("test accuracy", TEST_ACCURACY))
    return [(name, f"{run.metrics[key]:.2%}") for name, key in names if key in run.metrics]


def _time(run: RecordedRun) -> str:
    return f"{datetime.fromtimestamp(run.started / 1000).astimezone():%Y-%m-%d %H:%M}"
