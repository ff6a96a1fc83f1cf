"""scripts/report.py: a report to share, of a sweep or of one run. Every sweep ends with one."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from pandas import DataFrame

from lenetexp.config.commands import ReportConfig
from lenetexp.config.identity import format_swept, shorten_value
from lenetexp.errors import UserError, format_error, pluralize
from lenetexp.reporting.report_page import Cell, Report, render_report
from lenetexp.reporting.report_parts import (
    build_accuracy_charts,
    build_means_table,
    build_run_curves,
    build_runs_table,
    build_sweep_curves,
    order_values,
)  # fmt: skip
from lenetexp.reporting.terminal import format_path, format_rows
from lenetexp.sweeps.findings import compute_findings
from lenetexp.sweeps.image_sets import find_best, group_by_images
from lenetexp.sweeps.results import (
    RESULTS,
    SEED,
    build_row,
    group_recipes,
    has_means,
    load_runs,
    read_index,
    select_results,
)  # fmt: skip
from lenetexp.sweeps.run_files import RunFiles
from lenetexp.tracking.names import BEST_ACCURACY, BEST_EPOCH, SERIES, TEST_ACCURACY, Tag
from lenetexp.tracking.query import RecordedRun, get_run, list_children
from lenetexp.tracking.recorder import Recorder
from lenetexp.tracking.selection import find_run, find_sweep
from lenetexp.tracking.store import open_store

NAME = "report.html"
MOST_VALUES = 8  # of a key, in the sentence that says what was asked
MOST_SETS = 4  # of images, whose best runs are pictured
LEARNED = "learned"  # the verdict that finds nothing wrong
GOOD, FAIR = ("finished",), ("pruned", "killed", "not run", "running")  # all other endings are bad


def report(settings: ReportConfig, config: dict[str, Any], folder: Path) -> None:
    """Write the report of a sweep or of a run as report.html into `folder`.

    Raises:
        UserError: There is no such sweep or run.
    """
    store = open_store(settings.tracking, create=False)
    if settings.run is None:
        sweep = find_sweep(store, settings.which)
        index = read_index(sweep)
        page = build_sweep_report(sweep, load_runs(store, sweep), index["keys"], index.get("command", ()))
    else:
        run = find_run(store, settings.run)
        if run.is_sweep:
            raise UserError(f"run={run.run_id}: is a sweep; its report: sweep={run.run_id}")
        page = build_run_report(run)
    path = folder / NAME
    path.write_text(render_report(page), encoding="utf-8")
    print(format_rows([("report", format_path(path))]))


def add_report(recorder: Recorder, runs: DataFrame, keys: Sequence[str], folder: Path, command: Sequence[str]) -> None:
    """Write a sweep's report into its folder and its run. A failure is only a note: the results are there."""
    try:
        sweep = get_run(recorder.store, recorder.run_id)
        path = folder / NAME
        path.write_text(render_report(build_sweep_report(sweep, runs, keys, command)), encoding="utf-8")
        recorder.log_artifacts(path)
    except Exception as error:  # whatever it is, it must not end the sweep
        reason = f"{type(error).__name__}: {format_error(error)[:200]}"
        print(f"note: no report ({reason}); later: python scripts/report.py sweep={recorder.run_id}", flush=True)
        return
    widest = "best settings" if has_means(runs, group_recipes(runs, keys), keys) else "best run"
    print(format_rows([("report".ljust(len(widest)), format_path(path))]), flush=True)  # below the rows of the results


def build_sweep_report(sweep: RecordedRun, runs: DataFrame, keys: Sequence[str], command: Sequence[str] = ()) -> Report:
    """Build the report of a sweep with these runs. `command` holds the words of its command line."""
    assert sweep.store is not None
    recorded = {run.run_id: run for run in list_children(sweep.store, sweep.run_id)}
    recipes, results = group_recipes(runs, keys), select_results(runs)
    means = has_means(runs, recipes, keys)
    others = [key for key in keys if key != SEED or not means]

    def recorded_run(run_id: str) -> RecordedRun:
        return recorded.get(run_id) or get_run(sweep.store, run_id)  # type: ignore[arg-type]

    best = {images: recorded_run(run.run_id) for images, run in find_best(runs, recipes).items() if run is not None}
    pictured = {f"best run on {images}" if images else "best run": run for images, run in [*best.items()][:MOST_SETS]}
    if (
        len(best) == 1
        and len(results) > 1
        and (worst := results.run_id.iloc[-1]) not in {run.run_id for run in best.values()}
    ):
        pictured["worst run"] = recorded_run(worst)
    endings = [
        describe_ending(status, recorded.get(run_id)) for run_id, status in zip(runs.run_id, runs.status, strict=True)
    ]
    of_best = RunFiles(next(iter([*best.values(), *recorded.values(), sweep])))
    tables = [build_runs_table(runs, keys, endings)]
    if means:
        tables.insert(0, build_means_table(recipes, others))
    counts = Counter((cell.text, cell.kind) for cell in endings)
    return Report(
        kind="Sweep",
        title=sweep.name,
        question=_format_question(runs, keys, of_best),
        facts=[fact for images, run in best.items() for fact in _collect_facts(images, run, recipes, others, means)],
        endings=[Cell(f"{count} {text}", kind=kind) for (text, kind), count in counts.most_common()],
        findings=compute_findings(recipes, [key for key in keys if key != SEED], command).sentences,
        tables=tables,
        by_key=[
            chart
            for images, lines in group_by_images(recipes)
            for chart in build_accuracy_charts(lines, others, images)
        ],
        curves=[build_sweep_curves(lines, keys, others, images) for images, lines in group_by_images(runs)],
        inside=[
            one
            for which, run in pictured.items()
            for one in RunFiles(run).read_picture("inside", f"The {which}: {run.name}")
        ],
        mistakes=of_best.read_picture("mistakes", f"The best run: {of_best.run.name}"),
        commands=[
            *of_best.list_commands("the whole sweep"),
            ("its table and figures again", f"python scripts/compare.py sweep={sweep.run_id}"),
            ("this report again", f"python scripts/report.py sweep={sweep.run_id}"),
        ],
        origin=[
            ("record", f"sweep {sweep.run_id} in {sweep.store.label}"),
            ("began", _format_time(sweep)),
            *of_best.origin,
        ],
        recipe=of_best.recipe,
        swept=keys,
    )


def _collect_facts(
    images: str, best: RecordedRun, recipes: DataFrame, keys: Sequence[str], means: bool
) -> list[tuple[str, str]]:
    """Return the best run on a set of images in numbers, or the best setting if there are means."""
    if means:
        recipe = next(lines for name, lines in group_by_images(recipes) if name == images).iloc[0]
        interval = f" ± {recipe.half_width:.2%}" if isfinite(recipe.half_width) else ""
        test = f"{recipe.test:.2%}" if isfinite(recipe.test) else ""
        first = ("best setting", format_swept(recipe[[*keys]].to_dict()))
        results = [("mean validation accuracy", f"{recipe.accuracy:.2%}{interval}"), ("mean test accuracy", test)]
    else:
        first, results = ("best run", best.name), _format_epochs_to_goal(best)
    if not images:
        return [(label, text) for label, text in (first, *results) if text]
    numbers = ", ".join(f"{label} {text}" for label, text in results if text)
    return [(f"{first[0]} on {images}", ": ".join(filter(None, [first[1], numbers])))]


def build_run_report(run: RecordedRun) -> Report:
    """Build the report of one run."""
    assert run.store is not None
    row, files = build_row(run), RunFiles(run)
    facts = [*_format_epochs_to_goal(run), ("ended", describe_ending(row["status"], run).text)]
    if BEST_EPOCH in run.metrics:
        facts.insert(2, ("best epoch", f"{run.metrics[BEST_EPOCH]:.0f}"))
    histories = {key: [(metric.step, metric.value) for metric in run.get_history(key)] for key in SERIES[:4]}
    return Report(
        kind="Run",
        title=run.name,
        question=f"One run of {files.summary}.",
        facts=facts,
        findings=[(row["reason"], "")] if row["reason"] else [],
        curves=build_run_curves(histories),
        inside=files.read_picture("inside", "Layer by layer"),
        mistakes=files.read_picture("mistakes", "Test images that it takes for another class with the most confidence"),
        commands=[
            *files.list_commands("the sweep that it is a run of"),
            ("this report again", f"python scripts/report.py run={run.run_id}"),
        ],
        origin=[("record", f"run {run.run_id} in {run.store.label}"), ("began", _format_time(run)), *files.origin],
        recipe=files.recipe,
        swept=[*files.swept],
    )


def describe_ending(status: str, run: RecordedRun | None) -> Cell:
    """Describe how a run ended: what its verdict finds wrong, else its status."""
    verdict = run.tags.get(Tag.VERDICT, "") if run and status in RESULTS else ""
    text = status if verdict in ("", LEARNED) else verdict  # learned something: it may be very little
    return Cell(text, kind="good" if text in GOOD else "fair" if text in FAIR else "bad")


def _format_question(runs: DataFrame, keys: Sequence[str], files: RunFiles) -> str:
    """Format what a sweep asks."""
    varied = []
    for key in (key for key in keys if key != SEED):
        values, numeric = order_values(runs[key], runs.best_val_accuracy)
        many = len(values) > MOST_VALUES
        values_text = f"{len(values)} values" if many else ", ".join(map(shorten_value, values))
        limits = f" from {shorten_value(values[0])} to {shorten_value(values[-1])}" if many and numeric else ""
        varied.append(f"{key} ({values_text}{limits})")
    net = dict(files.recipe).get("model._target_", "").rpartition(".")[2] or "the net"
    data = "" if any(key.startswith("dataset") for key in keys) else files.dataset.get("name", "")
    what = " and ".join(filter(None, [", ".join(varied[:-1]), *varied[-1:]]))
    seeds = runs[SEED].nunique() if SEED in keys else 1
    scope = f" over {seeds} seeds" if seeds > 1 else ""
    rest = f"{pluralize(len(runs), 'run')}{scope}; everything else is as in the recipe below."
    of = f"the validation accuracy of {net}{f' on {data}' if data else ''}"
    return f"How does {of} {f'change with {what}' if what else 'vary from seed to seed'}? {rest}"


def _format_epochs_to_goal(run: RecordedRun) -> list[tuple[str, str]]:
    names = (("validation accuracy", BEST_ACCURACY), ("test accuracy", TEST_ACCURACY))
    return [(name, f"{run.metrics[key]:.2%}") for name, key in names if key in run.metrics]


def _format_time(run: RecordedRun) -> str:
    return f"{datetime.fromtimestamp(run.started / 1000).astimezone():%Y-%m-%d %H:%M}"
