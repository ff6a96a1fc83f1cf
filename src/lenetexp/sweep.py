"""What a sweep is beyond its runs: its parent in MLflow, what is finished already, what is left to do."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from math import nan
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lenetexp import tracking
from lenetexp.answer import INDEX, answer, read_index, rows_of
from lenetexp.config import Job, RunConfig, UserError
from lenetexp.interrupt import Interrupted, noted
from lenetexp.provenance import command_to_resume
from lenetexp.report import SweepProgress, shown
from lenetexp.tracking import Recorder, Store


@dataclass
class Sweep:
    """A sweep while it runs: its parent run, its folder, the jobs that it had so far."""

    recorder: Recorder
    folder: Path
    keys: Sequence[str]
    # What INDEX keeps of each job, by its config's hash.
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)  # hashes of the jobs of this command
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
            there = [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()]
            given = [entry["place"] for entry in self.jobs.values()]
            place = max([*there, *given], default=-1) + 1
        self.asked.add(job.config_hash)
        entry = {"swept": job.swept, "run_id": found, "reason": "", "place": place}
        self.jobs[job.config_hash] = entry
        return found is not None

    def folder_of(self, job: Job) -> Path:
        """The job's own folder."""
        return self.folder / str(self.jobs[job.config_hash]["place"])

    def overrides(self, job: Job) -> list[str]:
        """What the job is launched with: what was asked for, and its place in the sweep."""
        given = [word for word in job.overrides if not word.startswith("resume=")]
        # Percent-encoded: whatever is in it, Hydra takes it as a plain text.
        swept = quote(json.dumps(job.swept, ensure_ascii=False))
        place = {"parent": self.recorder.run_id, "cwd": quote(str(Path.cwd())), "swept": swept}
        folder = self.folder_of(job)
        interrupted = self._interrupted.get(job.config_hash)
        return [
            *given,
            f"resume={_quoted(interrupted) if interrupted else 'false'}",
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
        same = f"tags.`lenetexp.config_hash` = '{job.config_hash}'"
        for child in tracking.children(self.store, self.recorder.run_id, same):
            if child.is_result:
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
        ended = tracking.search(self.store, "attributes.status = 'FINISHED'")
        mine = tracking.children(self.store, self.recorder.run_id)
        # This sweep's own count before all others.
        self._finished = {run.config_hash: run.run_id for run in [*ended, *mine] if run.is_result}
        self._interrupted = {run.config_hash: run.run_id for run in mine if not run.is_result}
        if INDEX in tracking.find_run(self.store, self.recorder.run_id).listed():
            self.jobs = read_index(self.store, self.recorder.run_id)["jobs"]

    def keep(self) -> None:
        """Writes down what the sweep consists of, so that its answer can be had at any time."""
        content = {"keys": list(self.keys), "jobs": self.jobs}
        self.recorder.text(json.dumps(content, indent=1), INDEX)

    def answer(self) -> int:
        """Says what came of it, in the terminal, in its folder and in MLflow; how many runs failed."""
        self.bury()
        self.keep()
        rows = rows_of(self.store, self.recorder.run_id)
        answer(rows, self.keys, self.folder, self.recorder)
        return sum(not row.ended_well and row.config_hash in self.asked for row in rows)


@contextmanager
def recorded(
    settings: RunConfig,
    folder: Path,
    keys: Sequence[str],
    identity: str,
) -> Iterator[Sweep]:
    """Opens a sweep's parent run; at the end, however it comes, closes it with the answer.

    Args:
        settings: of any of its jobs.
        folder: the sweep's own.
        keys: that it varies.
        identity: which sweep this is: with resume=true the newest one of the same is gone on with.

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
    with noted() as stop_if_asked:
        resume = settings.resume is True
        recorder, folder = tracking.start_sweep(store, " × ".join(keys), identity, folder.resolve(), resume)
        sweep = Sweep(recorder, folder, keys)
        # The pictures' library is imported while the jobs run, not when everyone waits for the answer.
        threading.Thread(target=import_module, args=("lenetexp.figures",), daemon=True).start()
        status, failed = "FAILED", 0
        try:
            if resume:
                sweep.take_up()
        except BaseException:
            recorder.end(status)
            raise
        try:
            yield sweep
            stop_if_asked()
            status = "FINISHED"
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            failed = _close(sweep, status)
    if failed:
        raise UserError(f"{failed} of {len(sweep.asked)} runs failed; resume=true runs only those again")


def _close(sweep: Sweep, status: str) -> int:
    """Gives the sweep's answer and closes its parent run; how many runs failed.

    Raises:
        UserError: the answer cannot be given; where the sweep itself was ended by something, that is what
            its user has to know, and this is a note.
        BrokenPipeError: no one reads what is printed.
    """
    failed, trouble = 0, None
    try:
        failed = sweep.answer()
    except (UserError, OSError) as error:
        trouble = error
    try:
        spoiled = status == "FINISHED" and (failed or trouble is not None)
        sweep.recorder.end("FAILED" if spoiled else status)
    except UserError as error:
        trouble = trouble or error
    if isinstance(trouble, BrokenPipeError):  # as in … | head: nobody is there to be told
        raise trouble
    if trouble is not None:
        hint = "; the same command with resume=true gives the sweep's answer later"
        if status == "FINISHED":
            raise UserError(f"{trouble}{hint}") from trouble
        print(f"note: {trouble}{hint}", flush=True)
    if status == "KILLED":
        print(f"Stopped. To go on: {command_to_resume(None)}", flush=True)
    return failed


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
    runs = "1 run" if len(todo) == 1 else f"{len(todo)} runs"
    print(f"{runs}, at most {epochs:,} epochs in all, in {shown(sweep.folder)}", flush=True)
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


def _quoted(text: str) -> str:
    """A text as Hydra's overrides take it: backslashes count only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"
