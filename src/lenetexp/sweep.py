"""What a sweep is beyond its runs: its parent in MLflow, what is finished already, its answer."""

import hashlib
import json
import shlex
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from math import isnan, nan, prod, sqrt
from pathlib import Path
from typing import Any

from lenetexp import tracking
from lenetexp.config import CompareConfig, Job, RunConfig, UserError, short, swept_name
from lenetexp.interrupt import Interrupted
from lenetexp.report import SweepProgress, lines, shown, table
from lenetexp.tracking import Recorder, Store, Stored

SEED = "seed"
INDEX = "sweep.json"


@dataclass(frozen=True)
class Row:
    """What became of one run of a sweep."""

    swept: dict[str, str]
    status: str  # finished, diverged, pruned, failed, killed, not run
    reason: str = ""  # one line, where it failed
    run_id: str | None = None
    val_accuracy: float = nan
    best_epoch: float = nan
    test_accuracy: float = nan
    seconds: float = nan
    curve: tuple[tuple[int, float], ...] = ()  # epoch, validation accuracy
    before: bool = False  # taken over from an earlier sweep or run

    @property
    def ended_well(self) -> bool:
        """A diverged or pruned run is a result; a failed or killed one is not."""
        return self.status in ("finished", "diverged", "pruned")


@dataclass
class Sweep:
    """A sweep while it runs: its parent run, its folder, the jobs that it had so far."""

    recorder: Recorder
    folder: Path
    keys: Sequence[str]
    # What INDEX keeps of each job, by its config's hash.
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _finished: dict[str, str] = field(default_factory=dict)  # run ids by config hash
    _interrupted: dict[str, str] = field(default_factory=dict)  # of this sweep alone

    @property
    def store(self) -> Store:
        """Where it is recorded."""
        return self.recorder.store

    def skip(self, job: Job) -> bool:
        """Whether a run of exactly this config is finished; then it counts, and is not run again."""
        found = self._finished.get(job.config_hash)
        before = self.jobs.get(job.config_hash, {})
        place = before.get("place")
        if place is None or (job.config_hash not in self._interrupted and not found):
            places = [entry.get("place", -1) for entry in self.jobs.values()]
            place = max(places, default=-1) + 1
        entry = {"swept": job.swept, "run_id": found, "reason": "", "place": place}
        self.jobs[job.config_hash] = entry
        return found is not None

    def folder_of(self, job: Job) -> Path:
        """The job's own folder."""
        return self.folder / str(self.jobs[job.config_hash]["place"])

    def overrides(self, job: Job) -> list[str]:
        """What the job is launched with: what was asked for, and its place in the sweep."""
        given = [word for word in job.overrides if not word.startswith("resume=")]
        place = {"parent": self.recorder.run_id, "cwd": str(Path.cwd()), "swept": json.dumps(job.swept)}
        folder = self.folder_of(job)
        return [
            *given,
            f"resume={self._interrupted.get(job.config_hash, 'false')}",
            *(f"+job.{key}={_quoted(value)}" for key, value in place.items()),
            f"hydra.sweep.dir={_quoted(str(folder.parent))}",
            f"hydra.sweep.subdir={_quoted(folder.name)}",
        ]

    def value_of(self, job: Job) -> float:
        """The best validation accuracy of a run that `skip` found; NaN where it has none."""
        found = tracking.find_run(self.store, self._finished[job.config_hash])
        return found.metrics.get("best/val_accuracy", nan)

    def done(self, job: Job) -> None:
        """A job that has ended: should its config come again in this sweep, its run counts."""
        for child in tracking.children(self.store, self.recorder.run_id):
            if child.config_hash == job.config_hash and child.run.info.status == "FINISHED":
                self._finished[job.config_hash] = child.run_id

    def failed(self, job: Job, reason: str) -> None:
        """A job that ended badly; the reason stays with it."""
        self.jobs[job.config_hash]["reason"] = reason

    def bury(self) -> None:
        """When no job runs any more, a run that is still marked as running was killed."""
        for child in tracking.children(self.store, self.recorder.run_id):
            if child.run.info.status == "RUNNING":
                reason = self.jobs.get(child.config_hash, {}).get("reason") or "its process was gone"
                Recorder(self.store, child.run_id).bury(reason)

    def take_up(self) -> None:
        """What earlier commands left: this sweep's jobs, finished runs, and runs of dead processes."""
        for run in tracking.search(self.store, "attributes.status = 'RUNNING'"):
            if run.abandoned:
                Recorder(self.store, run.run_id).bury("its process was gone")
        # Oldest last: of several finished runs of one config, the first one counts.
        finished = tracking.search(self.store, tracking.FINISHED_OR_DIVERGED)
        self._finished = {run.config_hash: run.run_id for run in finished}
        self._interrupted = {
            child.config_hash: child.run_id
            for child in tracking.children(self.store, self.recorder.run_id)
            if child.status != "FINISHED"
        }
        with suppress(UserError):
            self.jobs = _read_index(self.store, self.recorder.run_id)["jobs"]

    def keep(self) -> None:
        """Writes down what the sweep consists of, so that its answer can be had at any time."""
        content = {"keys": list(self.keys), "jobs": self.jobs}
        self.recorder.text(json.dumps(content, indent=1), INDEX)


@contextmanager
def recorded(
    settings: RunConfig,
    folder: Path,
    keys: Sequence[str],
    fixed: Sequence[str],
) -> Iterator[Sweep]:
    """Opens a sweep's parent run; at the end, however it comes, closes it with the answer.

    Args:
        settings: of any of its jobs.
        folder: the sweep's own.
        keys: that it varies.
        fixed: the overrides that all jobs share. With `keys` they say which sweep this is: with
            resume=true the newest one of the same is gone on with, whatever its values.

    Raises:
        UserError: a sweep cannot be opened as these settings say; when all is done, if a job failed.
    """
    if settings.tracking.offline:
        raise UserError(
            "tracking.offline=true: must be false for a sweep, whose answer is drawn from MLflow"
        )
    if isinstance(settings.resume, str):
        raise UserError(
            f"resume={settings.resume}: must be true or false for a sweep; resume=true goes on with the "
            "newest one of this command"
        )
    store = tracking.open_store(settings.tracking)
    own = [word for word in fixed if not word.startswith(("resume=", "hydra", "tracking", "device"))]
    identity = hashlib.sha256(json.dumps([sorted(keys), sorted(own)]).encode()).hexdigest()[:12]
    resume = settings.resume is True
    recorder, folder = tracking.start_sweep(store, " × ".join(keys), identity, folder.resolve(), resume)
    sweep = Sweep(recorder, folder, keys)
    if resume:
        sweep.take_up()
    # The pictures' library is imported while the jobs run, not when everyone waits for the answer.
    threading.Thread(target=import_module, args=("lenetexp.figures",), daemon=True).start()
    status = "FAILED"
    try:
        yield sweep
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        sweep.bury()
        sweep.keep()
        rows = rows_of(store, sweep.recorder.run_id)
        bad = [row for row in rows if not row.ended_well]
        if status == "FINISHED" and bad:
            status = "FAILED"
        answer(rows, keys, folder, recorder)
        recorder.end(status)
        if status == "KILLED":
            again = shlex.join(["python", *[w for w in sys.argv if not w.startswith("resume=")]])
            print(f"Stopped. To go on: {again} resume=true", flush=True)
    if bad:
        raise UserError(f"{len(bad)} of {len(rows)} runs failed; resume=true runs only those again")


def run_jobs(sweep: Sweep, jobs: Sequence[Job], launch: Callable[[list[list[str]]], Sequence[Any]]) -> None:
    """Runs those of `jobs` that are not finished.

    Args:
        sweep: that they belong to.
        jobs: all that were asked for.
        launch: takes each job's overrides, returns Hydra's JobReturn for each.
    """
    todo = [job for job in jobs if not sweep.skip(job)]
    sweep.keep()
    skipped = len(jobs) - len(todo)
    if skipped:
        print(f"{skipped} of {len(jobs)} runs are finished already and are not run again", flush=True)
    if not todo:
        return
    epochs = sum(job.settings.epochs for job in todo)
    with SweepProgress(sweep.folder, len(todo), epochs):
        results = launch([sweep.overrides(job) for job in todo])
    for job, result in zip(todo, results, strict=True):
        reason = failure_of(result)
        if reason:
            sweep.failed(job, reason)


def failure_of(result: Any) -> str:
    """Why a job failed, from Hydra's JobReturn; empty where it did not."""
    from hydra.core.utils import JobStatus

    if result.status == JobStatus.COMPLETED:
        return ""
    return " ".join(str(result._return_value).split())


def rows_of(store: Store, parent: str) -> list[Row]:
    """What became of every run of a sweep, from MLflow alone; best validation accuracy first."""
    children = tracking.children(store, parent)
    rows = []
    for config_hash, entry in _read_index(store, parent)["jobs"].items():
        if entry["run_id"]:
            rows.append(row_of(tracking.find_run(store, entry["run_id"]), entry["swept"], before=True))
            continue
        mine = [child for child in children if child.config_hash == config_hash]
        # A run that was given again: the one that came to an end counts, else the newest.
        mine.sort(key=lambda c: (c.run.info.status == "FINISHED", c.run.info.start_time))
        if mine:
            rows.append(row_of(mine[-1], entry["swept"], reason=entry["reason"]))
        else:
            status = "failed" if entry["reason"] else "not run"
            rows.append(Row(entry["swept"], status, entry["reason"]))
    return sorted(rows, key=_best_first)


def _read_index(store: Store, parent: str) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(tracking.read_text(store, parent, INDEX))
    return index


def row_of(stored: Stored, swept: dict[str, str], reason: str = "", before: bool = False) -> Row:
    """A run of the store as a row."""
    metrics, tags = stored.metrics, stored.run.data.tags
    status = stored.run.info.status.lower()
    if status == "finished":
        status = tags.get("lenetexp.ending", "finished")
    return Row(
        swept=swept,
        status=status,
        reason=tags.get("lenetexp.reason", "") or tags.get("lenetexp.unsent", "") or reason,
        run_id=stored.run_id,
        val_accuracy=metrics.get("best/val_accuracy", nan),
        best_epoch=metrics.get("best/epoch", nan),
        test_accuracy=metrics.get("test/accuracy", nan),
        seconds=stored.seconds,
        curve=tuple(stored.history("val/accuracy")),
        before=before,
    )


def _best_first(row: Row) -> float:
    return 2.0 if isnan(row.val_accuracy) else -row.val_accuracy


@dataclass(frozen=True)
class Group:
    """The runs that differ in nothing but their seed."""

    swept: dict[str, str]  # without the seed
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return swept_name(self.swept) or "all runs"

    @property
    def accuracies(self) -> list[float]:
        """Best validation accuracy of each run that has one."""
        return [row.val_accuracy for row in self.rows if not isnan(row.val_accuracy)]

    @property
    def mean(self) -> float:
        """Mean best validation accuracy; NaN where no run has one."""
        return statistics.fmean(self.accuracies) if self.accuracies else nan

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); NaN for fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else nan

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
    return sorted(groups, key=lambda group: 2.0 if isnan(group.mean) else -group.mean)


def answer(rows: Sequence[Row], keys: Sequence[str], folder: Path, recorder: Recorder | None) -> None:
    """Prints the table and what to do next; writes table and pictures into `folder` and the parent run."""
    from lenetexp import figures

    said = _table(rows, keys)
    best = next((row for row in rows if row.run_id and not isnan(row.val_accuracy)), None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.txt").write_text(f"{said}\n")
    (folder / "table.csv").write_text(_csv(rows, keys))
    if best is not None:
        figures.save(_pictures(rows, keys), folder / "figures")
    print(f"\n{said}\n")
    counts = {
        status: sum(row.status == status for row in rows) for status in sorted({r.status for r in rows})
    }
    ends: list[tuple[str, str]] = [
        ("runs", ", ".join(f"{count} {status}" for status, count in counts.items())),
    ]
    if best is not None:
        named = swept_name(best.swept)
        ends += [
            ("best run", f"{named}: validation {best.val_accuracy:.2%}, test {best.test_accuracy:.2%}"),
            ("predict", f"python scripts/predict.py run={best.run_id}"),
            ("pictures", shown(folder / "figures")),
        ]
    if recorder is not None:
        ends += tracking.ways_to_look(recorder)
        if best is not None and best.run_id is not None:
            recorder.metrics({"sweep/best_val_accuracy": best.val_accuracy})
            recorder.tag("lenetexp.best_run", best.run_id)
        recorder.metrics({f"sweep/{status}": float(count) for status, count in counts.items()})
        recorder.tag("mlflow.note.content", f"```\n{said}\n```")
        for name in ("table.txt", "table.csv"):
            recorder.text((folder / name).read_text(), name)
        if best is not None:
            recorder.artifacts(folder / "figures", "figures")
    print(lines(ends), flush=True)


def _quoted(text: str) -> str:
    """A text as Hydra's overrides take it, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    others = [key for key in keys if key != SEED]
    if SEED in keys:
        head = [*others, "runs", "validation", "deviation", "95 % interval", "test", "failed"]
        body = []
        for group in groups_of(rows):
            low, high = group.mean - group.half_width, group.mean + group.half_width
            tests = [row.test_accuracy for row in group.rows if not isnan(row.test_accuracy)]
            body.append(
                [
                    *(short(group.swept.get(key, "")) for key in others),
                    str(len(group.accuracies)),
                    _percent(group.mean),
                    _percent(group.deviation),
                    "" if isnan(low) else f"{_percent(max(low, 0.0))} to {_percent(min(high, 1.0))}",
                    _percent(statistics.fmean(tests) if tests else nan),
                    str(sum(not row.ended_well for row in group.rows)),
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
    drawn = {
        "learning_curves": figures.sweep_curves(
            [(group.name, [row.curve for row in group.rows if row.curve]) for group in groups],
            title=f"learning curves over {title}",
        )
    }
    if others:
        points = [(group.swept, group.mean, group.half_width) for group in groups]
        drawn["accuracy"] = figures.accuracy_against(
            others, points, title=f"best validation accuracy over {title}"
        )
    if len(others) == 2 and 2 * len(groups) >= prod(len({g.swept[key] for g in groups}) for key in others):
        cells = {(g.swept[others[0]], g.swept[others[1]]): g.mean for g in groups}
        drawn["heat_map"] = figures.heat_map(others, cells, title=f"best validation accuracy over {title}")
    return drawn


def compare(settings: CompareConfig, config: dict[str, Any], folder: Path) -> None:
    """The answer to a sweep, or to any set of runs, from MLflow alone.

    Raises:
        UserError: there is no such sweep or run.
    """
    store = tracking.open_store(settings.tracking, create=False)
    if settings.runs is None:
        parent = tracking.find_sweep(store, settings.sweep)
        rows, keys = rows_of(store, parent.run_id), _read_index(store, parent.run_id)["keys"]
    else:
        found = tracking.search(store, settings.runs)
        if not found:
            raise UserError(f"runs={settings.runs}: no run of {settings.tracking.experiment} is like that")
        keys = _differing([run.run.data.params for run in found])
        rows = [row_of(run, {key: run.run.data.params.get(key, "") for key in keys}) for run in found]
        rows = sorted(rows, key=_best_first)
    answer(rows, keys, folder, None)


# Keys that may differ between runs without making them different experiments.
_INCIDENTAL = ("tracking.", "data_dir", "dataset.root", "device.threads")


def _differing(params: Sequence[Mapping[str, str]]) -> list[str]:
    """The params in which runs differ."""
    names = dict.fromkeys(name for each in params for name in each)
    return [
        name
        for name in names
        if not name.startswith(_INCIDENTAL) and len({each.get(name) for each in params}) > 1
    ]
