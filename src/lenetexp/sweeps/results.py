"""What a set of runs shows: a table, pictures, the best run. Read from MLflow, so at any time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan, nan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lenetexp.config.identity import short, swept_name, trust_needed
from lenetexp.errors import UserError, one_line
from lenetexp.reporting.run_summary import how_to_look
from lenetexp.reporting.terminal import rows as aligned
from lenetexp.reporting.terminal import shown, table, try_draw
from lenetexp.tracking.names import BEST_ACCURACY, BEST_EPOCH, BEST_LOSS, TEST_ACCURACY, File, Tag
from lenetexp.tracking.query import RecordedRun, children, get_run
from lenetexp.tracking.recorder import Recorder
from lenetexp.tracking.store import Store

SEED = "seed"
# What can become of a run. Diverged and pruned runs are results; failed and killed ones are not.
RESULTS = ("finished", "diverged", "pruned")
STATUSES = (*RESULTS, "failed", "killed", "not run")


@dataclass(frozen=True)
class Row:
    """What became of one run."""

    swept: dict[str, str]
    status: str  # one of STATUSES
    reason: str = ""  # one line
    run_id: str = ""
    val_accuracy: float = nan
    val_loss: float = nan
    best_epoch: float = nan
    test_accuracy: float = nan
    seconds: float = nan
    curve: tuple[tuple[int, float], ...] = ()  # epoch, validation accuracy
    trust: str = ""  # what a command that loads the run must add, for custom classes
    before: bool = False  # of another sweep, or of none
    config_hash: str = ""

    @property
    def is_result(self) -> bool:
        return self.status in RESULTS


def rows_of(store: Store, sweep: RecordedRun) -> list[Row]:
    """What became of every run of a sweep, the best first."""
    mine = children(store, sweep.run_id)
    rows = []
    for config_hash, entry in read_index(sweep)["jobs"].items():
        swept, reason = entry["swept"], entry["reason"]
        # Of a job that was given again, the finished run counts, else the newest.
        same = sorted(
            (run for run in mine if run.config_hash == config_hash),
            key=lambda run: (run.status == "FINISHED", run.started),
        )
        if entry["run_id"]:
            rows.append(row_of(get_run(store, entry["run_id"]), swept, sweep.run_id))
        elif same:
            rows.append(row_of(same[-1], swept, sweep.run_id, reason))
        else:
            rows.append(Row(swept, "failed" if reason else "not run", reason, config_hash=config_hash))
    return sorted(rows, key=best_first)


def read_index(sweep: RecordedRun) -> dict[str, Any]:
    """What a sweep consists of: its keys, and its jobs by their config's hash.

    Raises `UserError` if it was killed before it wrote that down, or that is damaged.
    """
    try:
        with sweep.files(File.SWEEP) as folder:
            index: dict[str, Any] = json.loads((folder / File.SWEEP).read_text())
        for entry in index["jobs"].values():
            entry["swept"].items(), entry["run_id"], entry["reason"]
        list(index["keys"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"sweep={sweep.run_id}: its {File.SWEEP} is damaged ({one_line(error)[:80]})") from None
    return index


def row_of(run: RecordedRun, swept: dict[str, str], sweep: str | None = None, reason: str = "") -> Row:
    """A run of the store, as a row of the sweep of this id."""
    metrics, tags, params = run.metrics, run.tags, run.params
    status = run.ending or "finished" if run.status == "FINISHED" else run.status.lower()
    # A finished run's reason is of an earlier command that did not get so far.
    known = ("" if status == "finished" else tags.get(Tag.REASON, "")) or tags.get(Tag.UNSENT, "")
    return Row(
        swept=swept,
        status=status,
        reason=known or ("" if run.status == "FINISHED" else reason),
        run_id=run.run_id,
        val_accuracy=metrics.get(BEST_ACCURACY, nan),
        val_loss=metrics.get(BEST_LOSS, nan),
        best_epoch=metrics.get(BEST_EPOCH, nan),
        test_accuracy=metrics.get(TEST_ACCURACY, nan),
        seconds=run.seconds,
        curve=tuple((metric.step, metric.value) for metric in run.history("val/accuracy")),
        trust=trust_needed([params.get(f"{key}._target_", "") for key in ("model", "dataset")]),
        before=sweep is not None and tags.get(Tag.PARENT) != sweep,
        config_hash=run.config_hash,
    )


def best_first(row: Row) -> tuple[float, float]:
    """Sorts by accuracy, then by loss, as a run's best epoch and predict.py's run=best are chosen."""
    return inf if isnan(row.val_accuracy) else -row.val_accuracy, row.val_loss


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    swept: dict[str, str]  # without the seed
    rows: tuple[Row, ...]  # the best first

    @cached_property
    def accuracies(self) -> list[float]:
        """The best validation accuracy of each result, one for each seed."""
        results = [row for row in reversed(self.rows) if row.is_result and not isnan(row.val_accuracy)]
        return [*{row.swept.get(SEED, i): row.val_accuracy for i, row in enumerate(results)}.values()]

    @property
    def mean(self) -> float:
        """NaN without results."""
        return fmean(self.accuracies) if self.accuracies else nan

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); NaN for fewer than two."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else nan

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the mean, by Student's t; NaN for fewer than two seeds."""
        from scipy.stats import t  # half a second that single runs need not wait for

        count = len(self.accuracies)
        return float(t.ppf(0.975, count - 1)) * self.deviation / sqrt(count) if count > 1 else nan

    @property
    def loss(self) -> float:
        """Mean validation loss at the best epochs, which decides between equal accuracies."""
        losses = [row.val_loss for row in self.rows if not isnan(row.val_loss)]
        return fmean(losses) if losses else inf


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """Rows grouped by all but the seed, the best mean first."""
    by: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        by.setdefault(tuple((k, v) for k, v in row.swept.items() if k != SEED), []).append(row)
    groups = [Group(dict(key), tuple(members)) for key, members in by.items()]
    return sorted(groups, key=lambda group: (inf if isnan(group.mean) else -group.mean, group.loss))


def show_results(rows: Sequence[Row], keys: Sequence[str], folder: Path, recorder: Recorder | None) -> None:
    """Prints the table and what to do next; saves table and pictures in `folder` and in the sweep's run."""
    groups = groups_of(rows)
    text = results_table(rows, keys)
    print(f"\n{text}\n", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(File.TABLES, (f"{text}\n", results_csv(rows, keys)), strict=True):
        (folder / name).write_text(content)
    # With seeds, the best run of the best recipe: not the luckiest of all.
    ranked = [row for group in groups for row in group.rows]
    best = next((row for row in ranked if row.run_id and not isnan(row.val_accuracy)), None)
    has_pictures = best is not None and try_draw(lambda: _draw(groups, keys, folder / File.FIGURES))
    counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
    pairs = [("runs", ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if n) or "none")]
    if best is not None:
        reached = f"validation {best.val_accuracy:.2%}" + (
            "" if isnan(best.test_accuracy) else f", test {best.test_accuracy:.2%}"
        )
        pairs.append(("best run", ": ".join(filter(None, [swept_name(best.swept), reached]))))
        pairs.append(("predict", f"python scripts/predict.py run={best.run_id}{best.trust}"))
    if has_pictures:
        pairs.append(("pictures", shown(folder / File.FIGURES)))
    print(aligned([*pairs, *(how_to_look(recorder) if recorder else [])]), flush=True)
    if recorder is None:
        return
    if best is not None:
        recorder.metrics({"sweep/best_val_accuracy": best.val_accuracy})
        recorder.tag(Tag.BEST_RUN, best.run_id)
    # Zeros as well: a resumed sweep may have no failed runs any more.
    recorder.metrics({f"sweep/{status}": float(count) for status, count in counts.items()})
    recorder.tag(Tag.DESCRIPTION, f"```\n{text}\n```")
    for name in File.TABLES:
        recorder.artifacts(folder / name)
    if has_pictures:
        recorder.artifacts(folder / File.FIGURES, File.FIGURES)


def _draw(groups: Sequence[Group], keys: Sequence[str], folder: Path) -> None:
    from lenetexp.reporting.sweep_figures import SweepPoint, draw_sweep

    points = [
        SweepPoint(
            values=group.swept,
            accuracy=group.mean,
            half_width=group.half_width,
            diverged=any(row.status == "diverged" for row in group.rows),
            curves=[row.curve for row in group.rows if row.curve],
        )
        for group in groups
    ]
    draw_sweep(points, keys, folder)


def results_table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """One line for each run; with seeds, one for each recipe, and the failed runs below."""
    others = [key for key in keys if key != SEED]
    if SEED not in keys:
        head = [*others, "validation", "epoch", "test", "seconds", "status"]
        return table(head, [[*_values(row.swept, others), *_cells(row)] for row in rows])
    head = [*others, "runs", "validation", "deviation", "95 % interval", "test", "ended otherwise"]
    groups = groups_of(rows)
    failed = [f"{swept_name(row.swept)}: {row.reason or row.status}" for row in rows if not row.is_result]
    return "\n".join([table(head, [[*_values(g.swept, others), *_summary(g)] for g in groups]), *failed])


def _values(swept: dict[str, str], keys: Sequence[str]) -> list[str]:
    return [short(swept.get(key, "")) for key in keys]


def _cells(row: Row) -> list[str]:
    status = f"{row.status}: {row.reason}" if row.reason else row.status
    return [
        _percent(row.val_accuracy),
        "" if isnan(row.best_epoch) else f"{row.best_epoch:.0f}",
        _percent(row.test_accuracy),
        "" if isnan(row.seconds) else f"{row.seconds:.1f}",
        f"{status} (before)" if row.before else status,
    ]


def _summary(group: Group) -> list[str]:
    low, high = group.mean - group.half_width, group.mean + group.half_width
    tests = [row.test_accuracy for row in group.rows if not isnan(row.test_accuracy)]
    # Runs that diverged early are in no mean.
    ends = [row.status for row in group.rows if row.status != "finished"]
    return [
        f"{len(group.accuracies)} of {len(group.rows)}",
        _percent(group.mean),
        _percent(group.deviation),
        "" if isnan(low) else f"{_percent(max(low, 0.0))} to {_percent(min(high, 1.0))}",
        _percent(fmean(tests) if tests else nan),
        ", ".join(f"{ends.count(status)} {status}" for status in dict.fromkeys(ends)),
    ]


def _percent(share: float) -> str:
    return "" if isnan(share) else f"{share:.2%}"


def results_csv(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """One line for each run, with a head."""
    import pandas  # MLflow has imported it

    columns = ["best_val_accuracy", "best_epoch", "test_accuracy", "seconds", "status", "reason", "run_id"]
    lines = [
        [*(row.swept.get(key, "") for key in keys), row.val_accuracy, row.best_epoch, row.test_accuracy,
         row.seconds, row.status, row.reason, row.run_id]
        for row in rows
    ]  # fmt: skip
    return pandas.DataFrame(lines, columns=[*keys, *columns]).to_csv(index=False)
