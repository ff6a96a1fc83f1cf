"""What a set of runs says: a table, pictures, the best run. From MLflow alone, so at any time."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan, nan, prod, sqrt
from pathlib import Path
from typing import Any

from lenetexp import tracking
from lenetexp.config import CompareConfig, UserError, one_line, short, swept_name, trust_for
from lenetexp.report import drawn, lines, shown, table
from lenetexp.tracking import Recorder, Store, Stored

SEED = "seed"
INDEX = "sweep.json"
STATUSES = ("finished", "diverged", "pruned", "failed", "killed", "not run")


@dataclass(frozen=True)
class Row:
    """What became of one run of a sweep."""

    swept: dict[str, str]
    status: str  # finished, diverged, pruned, failed, killed, not run
    reason: str = ""  # one line, where it failed
    run_id: str | None = None
    val_accuracy: float = nan
    val_loss: float = nan
    best_epoch: float = nan
    test_accuracy: float = nan
    seconds: float = nan
    curve: tuple[tuple[int, float], ...] = ()  # epoch, validation accuracy
    trust: str = ""  # what a command that loads the run has to add, where its classes are a user's own
    before: bool = False  # of another sweep, or of no sweep
    config_hash: str = ""

    @property
    def ended_well(self) -> bool:
        """A diverged or pruned run is a result; a failed or killed one is not."""
        return self.status in ("finished", "diverged", "pruned")


def rows_of(store: Store, parent: str) -> list[Row]:
    """What became of every run of a sweep, from MLflow alone; best validation accuracy first."""
    children = tracking.children(store, parent)
    rows = []
    for config_hash, entry in read_index(store, parent)["jobs"].items():
        if entry["run_id"]:
            rows.append(row_of(tracking.find_run(store, entry["run_id"]), entry["swept"], parent))
            continue
        mine = [child for child in children if child.config_hash == config_hash]
        # A run that was given again: the one that came to an end counts, else the newest.
        mine.sort(key=lambda c: (c.run.info.status == "FINISHED", c.run.info.start_time))
        if mine:
            rows.append(row_of(mine[-1], entry["swept"], parent, entry["reason"]))
        else:
            status = "failed" if entry["reason"] else "not run"
            rows.append(Row(entry["swept"], status, entry["reason"], config_hash=config_hash))
    return sorted(rows, key=_best_first)


def read_index(store: Store, parent: str) -> dict[str, Any]:
    """What a sweep consists of: its keys, and its jobs by their config's hash.

    Raises:
        UserError: it was killed before it wrote that down.
    """
    try:
        index: dict[str, Any] = json.loads(tracking.read_text(store, parent, INDEX))
        for entry in index["jobs"].values():
            entry["swept"].items(), entry["run_id"], entry["reason"]
        list(index["keys"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"sweep={parent}: its {INDEX} is damaged ({one_line(error)[:80]})") from None
    return index


def row_of(stored: Stored, swept: dict[str, str], parent: str | None = None, reason: str = "") -> Row:
    """A run of the store as a row of the sweep `parent`."""
    metrics, tags, params = stored.metrics, stored.tags, stored.run.data.params
    status = stored.run.info.status.lower()
    told = tags.get("lenetexp.reason", "") or tags.get("lenetexp.unsent", "") or reason
    if status == "finished":
        status = stored.ending or "finished"
        if status == "finished":  # why an earlier command did not come so far is past
            told = tags.get("lenetexp.unsent", "")
    return Row(
        swept=swept,
        status=status,
        reason=told,
        run_id=stored.run_id,
        val_accuracy=metrics.get("best/val_accuracy", nan),
        val_loss=metrics.get("best/val_loss", nan),
        best_epoch=metrics.get("best/epoch", nan),
        test_accuracy=metrics.get("test/accuracy", nan),
        seconds=stored.seconds,
        curve=tuple(stored.history("val/accuracy")),
        trust=trust_for([params.get(f"{key}._target_", "") for key in ("model", "dataset")]),
        before=parent is not None and tags.get(tracking.PARENT) != parent,
        config_hash=stored.config_hash,
    )


def _best_first(row: Row) -> tuple[float, float]:
    """By accuracy, then by loss: what also chooses a run's best epoch, and predict.py's run=best."""
    return 2.0 if isnan(row.val_accuracy) else -row.val_accuracy, row.val_loss


@dataclass(frozen=True)
class Group:
    """The runs that differ in nothing but their seed."""

    swept: dict[str, str]  # without the seed
    rows: tuple[Row, ...]  # the best first

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return swept_name(self.swept) or "all runs"

    @property
    def accuracies(self) -> list[float]:
        """Best validation accuracy of each run that came to an end with one; of a seed's runs, of one."""
        ended = [row for row in reversed(self.rows) if row.ended_well and not isnan(row.val_accuracy)]
        by_seed = {row.swept.get(SEED, i): row.val_accuracy for i, row in enumerate(ended)}
        return [*by_seed.values()]

    @property
    def mean(self) -> float:
        """Mean best validation accuracy; NaN where no run has one."""
        return statistics.fmean(self.accuracies) if self.accuracies else nan

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); NaN for fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else nan

    @property
    def loss(self) -> float:
        """Mean validation loss at the best epochs, which decides between equal accuracies."""
        losses = [row.val_loss for row in self.rows if not isnan(row.val_loss)]
        return statistics.fmean(losses) if losses else inf

    @property
    def diverged(self) -> bool:
        """Whether a run of it did."""
        return any(row.status == "diverged" for row in self.rows)

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the mean by Student's t; NaN for fewer than two runs."""
        from scipy.stats import t

        count = len(self.accuracies)
        return float(t.ppf(0.975, count - 1)) * self.deviation / sqrt(count) if count > 1 else nan


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """Rows put together that differ in the seed alone; best mean first."""
    by: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        by.setdefault(tuple((k, v) for k, v in row.swept.items() if k != SEED), []).append(row)
    groups = [Group(dict(key), tuple(members)) for key, members in by.items()]
    return sorted(groups, key=lambda group: (2.0 if isnan(group.mean) else -group.mean, group.loss))


def answer(rows: Sequence[Row], keys: Sequence[str], folder: Path, recorder: Recorder | None) -> None:
    """Prints the table and what to do next; writes table and pictures into `folder` and the parent run."""
    said = _table(rows, keys)
    print(f"\n{said}\n", flush=True)
    # Of seeds, the best run of the best recipe: not the luckiest of all.
    ranked = [row for group in groups_of(rows) for row in group.rows]
    best = next((row for row in ranked if row.run_id and not isnan(row.val_accuracy)), None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.txt").write_text(f"{said}\n")
    (folder / "table.csv").write_text(_csv(rows, keys))
    has_pictures = best is not None and drawn(lambda: _draw(rows, keys, folder / "figures"))
    counts = {
        status: sum(row.status == status for row in rows) for status in sorted({r.status for r in rows})
    }
    ends: list[tuple[str, str]] = [
        ("runs", ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"),
    ]
    if best is not None:
        reached = {"validation": best.val_accuracy, "test": best.test_accuracy}
        told = ", ".join(f"{which} {share:.2%}" for which, share in reached.items() if not isnan(share))
        named = swept_name(best.swept)
        ends.append(("best run", f"{named}: {told}" if named else told))
        ends.append(("predict", f"python scripts/predict.py run={best.run_id}{best.trust}"))
    if has_pictures:
        ends.append(("pictures", shown(folder / "figures")))
    print(lines([*ends, *(tracking.ways_to_look(recorder) if recorder else [])]), flush=True)
    if recorder is None:
        return
    if best is not None and best.run_id is not None:
        recorder.metrics({"sweep/best_val_accuracy": best.val_accuracy})
        recorder.tag("lenetexp.best_run", best.run_id)
    # All of them: a sweep that was gone on with may have no failed ones any more.
    recorder.metrics({f"sweep/{status}": float(counts.get(status, 0)) for status in STATUSES})
    recorder.tag("mlflow.note.content", f"```\n{said}\n```")
    for name in ("table.txt", "table.csv"):
        recorder.text((folder / name).read_text(), name)
    if has_pictures:
        recorder.artifacts(folder / "figures", "figures")


def _draw(rows: Sequence[Row], keys: Sequence[str], folder: Path) -> None:
    from lenetexp import figures

    pictures = _pictures(rows, keys)
    figures.save(pictures, folder)
    for path in folder.glob("*.png"):  # of an earlier command, that would not be drawn now
        if path.stem not in pictures:
            path.unlink()


def _table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    others = [key for key in keys if key != SEED]
    if SEED in keys:
        head = [*others, "runs", "validation", "deviation", "95 % interval", "test", "ended otherwise"]
        body = []
        for group in groups_of(rows):
            low, high = group.mean - group.half_width, group.mean + group.half_width
            tests = [row.test_accuracy for row in group.rows if not isnan(row.test_accuracy)]
            body.append(
                [
                    *(short(group.swept.get(key, "")) for key in others),
                    f"{len(group.accuracies)} of {len(group.rows)}",
                    _percent(group.mean),
                    _percent(group.deviation),
                    "" if isnan(low) else f"{_percent(max(low, 0.0))} to {_percent(min(high, 1.0))}",
                    _percent(statistics.fmean(tests) if tests else nan),
                    _otherwise(group.rows),
                ]
            )
        failed = [
            f"{swept_name(row.swept)}: {row.reason or row.status}" for row in rows if not row.ended_well
        ]
        return "\n".join([table(head, body), *failed])
    head = [*others, "validation", "epoch", "test", "seconds", "status"]
    return table(
        head,
        [
            [
                *(short(row.swept.get(key, "")) for key in others),
                _percent(row.val_accuracy),
                "" if isnan(row.best_epoch) else f"{row.best_epoch:.0f}",
                _percent(row.test_accuracy),
                "" if isnan(row.seconds) else f"{row.seconds:.1f}",
                _ending(row),
            ]
            for row in rows
        ],
    )


def _otherwise(rows: Sequence[Row]) -> str:
    """How many ended in each way but finished: those that diverged early are in no mean."""
    ends = [row.status for row in rows if row.status != "finished"]
    return ", ".join(f"{ends.count(status)} {status}" for status in dict.fromkeys(ends))


def _ending(row: Row) -> str:
    told = f"{row.status}: {row.reason}" if row.reason else row.status
    return f"{told} (before)" if row.before else told


def _percent(share: float) -> str:
    return "" if isnan(share) else f"{share:.2%}"


def _csv(rows: Sequence[Row], keys: Sequence[str]) -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        [*keys, "best_val_accuracy", "best_epoch", "test_accuracy", "seconds", "status", "reason", "run_id"]
    )
    for row in rows:
        numbers = [row.val_accuracy, row.best_epoch, row.test_accuracy, row.seconds]
        told = ["" if isnan(number) else number for number in numbers]
        writer.writerow(
            [*(row.swept.get(key, "") for key in keys), *told, row.status, row.reason, row.run_id or ""]
        )
    return out.getvalue()


def _pictures(rows: Sequence[Row], keys: Sequence[str]) -> Mapping[str, Any]:
    from lenetexp import figures

    groups = groups_of(rows)
    others = [key for key in keys if key != SEED]
    title = " and ".join(keys) if len(keys) < 4 else f"{len(keys)} settings"
    pictures = {
        "learning_curves": figures.sweep_curves(
            [(group.name, [row.curve for row in group.rows if row.curve]) for group in groups],
            title=f"learning curves over {title}",
        )
    }
    if others:
        points = [figures.Point(g.swept, g.mean, g.half_width, g.diverged) for g in groups]
        pictures["accuracy"] = figures.accuracy_against(
            others, points, title=f"best validation accuracy over {title}"
        )
    counts = [len({group.swept[key] for group in groups}) for key in others]
    # Where most pairs were tried: not what a search leaves.
    if len(counts) == 2 and min(counts) > 1 and len(groups) > 0.75 * prod(counts):
        pictures["heat_map"] = figures.heat_map(
            others, points, title=f"best validation accuracy over {title}"
        )
    return pictures


def compare(settings: CompareConfig, config: dict[str, Any], folder: Path) -> None:
    """The answer to a sweep, or to any set of runs, from MLflow alone.

    Raises:
        UserError: there is no such sweep or run.
    """
    store = tracking.open_store(settings.tracking, create=False)
    if settings.runs is None:
        parent = tracking.find_sweep(store, settings.which)
        rows, keys = rows_of(store, parent.run_id), read_index(store, parent.run_id)["keys"]
    else:
        found = [r for r in tracking.search(store, settings.runs) if "lenetexp.sweep" not in r.tags]
        if not found:
            raise UserError(f"runs={settings.runs}: no run of {settings.tracking.experiment} is like that")
        keys = _differing([run.run.data.params for run in found])
        rows = [row_of(run, {key: _said(run.run.data.params, key) for key in keys}) for run in found]
        rows = sorted(rows, key=_best_first)
    answer(rows, keys, folder, None)


# Keys that may differ between runs without making them different experiments.
_INCIDENTAL = ("tracking.", "data_dir", "dataset.root", "device.threads")


def _differing(params: Sequence[Mapping[str, str]]) -> list[str]:
    """The params in which runs differ, but for those that follow from another."""
    names = [
        name
        for name in dict.fromkeys(name for each in params for name in each)
        if not name.startswith(_INCIDENTAL) and len({each.get(name) for each in params}) > 1
    ]
    # An Adam has no momentum: what one of several classes has alone tells nothing that its name does not.
    classes = [name.removesuffix("._target_") for name in names if name.endswith("._target_")]
    shared = [
        name
        for name in names
        if all(name in each for each in params)
        or not (name in classes or name.startswith(tuple(f"{key}." for key in classes)))
    ]
    # Of several that always go together, as scheduler.epochs with epochs, the shortest.
    by_length = sorted(shared, key=len, reverse=True)
    columns = {tuple(_said(each, name) for each in params): name for name in by_length}
    return [name for name in shared if name in columns.values()]


def _said(params: Mapping[str, str], name: str) -> str:
    """A param's value; a class without its modules."""
    value = params.get(name, "")
    return value.rpartition(".")[2] if name.endswith("._target_") else value
