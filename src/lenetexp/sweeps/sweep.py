"""A sweep's own run in MLflow: what is finished already, what is left to do, its results at the end."""

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

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import open_dict

from lenetexp.config.schema import RunConfig
from lenetexp.errors import UserError
from lenetexp.reporting.sweep_progress import SweepProgress
from lenetexp.reporting.terminal import shown
from lenetexp.runs.interrupt import Interrupted, noted
from lenetexp.runs.provenance import command_to_resume
from lenetexp.sweeps.plan import Job, Plan
from lenetexp.sweeps.results import RESULTS, read_index, runs_of, show_results
from lenetexp.tracking.journal import lock_folder
from lenetexp.tracking.names import BEST_ACCURACY, File, Tag
from lenetexp.tracking.query import children, get_run, search
from lenetexp.tracking.recorder import Recorder, create_run, origin_tags
from lenetexp.tracking.store import Store, open_store


@dataclass
class Sweep:
    """A sweep while it runs."""

    recorder: Recorder
    folder: Path
    keys: Sequence[str]
    # What sweep.json keeps of each job, by its config's hash: swept, run_id, reason, place.
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)  # hashes of the jobs of this command
    _finished: dict[str, str] = field(default_factory=dict)  # run ids by config hash
    _interrupted: dict[str, str] = field(default_factory=dict)  # of this sweep only

    @property
    def _children(self) -> list[Any]:
        return children(self.recorder.store, self.recorder.run_id)

    def skip(self, job: Job) -> bool:
        """Whether a run of exactly this config is finished; it counts and is not run again."""
        finished = self._finished.get(job.config_hash)
        place = self.jobs.get(job.config_hash, {}).get("place")
        if place is None or (job.config_hash not in self._interrupted and not finished):
            there = [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()]
            place = max([*there, *(entry["place"] for entry in self.jobs.values())], default=-1) + 1
        self.asked.add(job.config_hash)
        self.jobs[job.config_hash] = {"swept": job.swept, "run_id": finished, "reason": "", "place": place}
        return finished is not None

    def folder_of(self, job: Job) -> Path:
        return self.folder / str(self.jobs[job.config_hash]["place"])

    def overrides(self, job: Job) -> list[str]:
        """What the job is launched with: what was asked for, and its place in the sweep."""
        # Percent-encoded, so that Hydra takes any value as plain text.
        swept = quote(json.dumps(job.swept, ensure_ascii=False))
        place = {"parent": self.recorder.run_id, "cwd": quote(str(Path.cwd())), "swept": swept}
        folder = self.folder_of(job)
        interrupted = self._interrupted.get(job.config_hash)
        return [
            *(word for word in job.overrides if not word.startswith("resume=")),
            f"resume={_quoted(interrupted) if interrupted else 'false'}",
            *(f"+job.{key}={_quoted(value)}" for key, value in place.items()),
            f"hydra.sweep.dir={_quoted(str(folder.parent))}",
            f"hydra.sweep.subdir={_quoted(folder.name)}",
        ]

    def value_of(self, job: Job) -> float:
        """The best validation accuracy of a run that `skip` found; NaN if it has none."""
        return get_run(self.recorder.store, self._finished[job.config_hash]).metrics.get(BEST_ACCURACY, nan)

    def done(self, job: Job) -> None:
        """Notes a finished job: should a search propose its config again, its run counts."""
        same = f"tags.`{Tag.CONFIG_HASH}` = '{job.config_hash}'"
        for child in children(self.recorder.store, self.recorder.run_id, same):
            if child.is_result:
                self._finished[job.config_hash] = child.run_id

    def failed(self, job: Job, reason: str) -> None:
        """Notes why a job failed."""
        self.jobs[job.config_hash]["reason"] = reason

    def resume(self) -> None:
        """Finds what earlier commands left: this sweep's jobs, finished runs, runs of dead processes."""
        store = self.recorder.store
        for run in search(store, "attributes.status = 'RUNNING'"):
            if run.was_killed_here:
                Recorder(store, run.run_id).mark_killed("its process was gone")
        # Of several finished runs of one config the first one counts, and this sweep's own before all others.
        ended = search(store, "attributes.status = 'FINISHED'")
        mine = self._children
        self._finished = {run.config_hash: run.run_id for run in [*ended, *mine] if run.is_result}
        self._interrupted = {run.config_hash: run.run_id for run in mine if not run.is_result}
        if File.SWEEP in get_run(store, self.recorder.run_id).artifacts():
            self.jobs = read_index(get_run(store, self.recorder.run_id))["jobs"]

    def save_index(self) -> None:
        """Writes down what the sweep consists of, so that its results can be shown at any time."""
        content = {"keys": list(self.keys), "jobs": self.jobs}
        self.recorder.store.client.log_text(self.recorder.run_id, json.dumps(content, indent=1), File.SWEEP)

    def run(self, jobs: Sequence[Job], launch: Callable[[list[list[str]]], Sequence[JobReturn]]) -> None:
        """Runs those of `jobs` that are not finished; `launch` takes their overrides and returns Hydra's results."""
        todo = [job for job in jobs if not self.skip(job)]
        self.save_index()
        if skipped := len(jobs) - len(todo):
            print(f"{skipped} of {len(jobs)} runs are finished already and are not run again", flush=True)
        if not todo:
            return
        epochs = sum(job.settings.epochs for job in todo)
        runs = "1 run" if len(todo) == 1 else f"{len(todo)} runs"
        print(f"{runs}, at most {epochs:,} epochs in all, in {shown(self.folder)}", flush=True)
        with SweepProgress(self.folder, len(todo), epochs):
            results = launch([self.overrides(job) for job in todo])
        for job, result in zip(todo, results, strict=True):
            if reason := failure_of(result):
                self.failed(job, reason)

    def results(self) -> int:
        """Shows the results in the terminal, the sweep's folder and MLflow; returns how many runs failed."""
        for child in self._children:  # no job runs any more: one that is marked as running was killed
            if child.status == "RUNNING":
                reason = self.jobs.get(child.config_hash, {}).get("reason") or "its process was gone"
                Recorder(self.recorder.store, child.run_id).mark_killed(reason)
        self.save_index()
        runs = runs_of(self.recorder.store, get_run(self.recorder.store, self.recorder.run_id))
        show_results(runs, self.keys, self.folder, self.recorder)
        return int((runs.config_hash.isin(self.asked) & ~runs.status.isin(RESULTS)).sum())


@contextmanager
def recorded(settings: RunConfig, folder: Path, plan: Plan) -> Iterator[Sweep]:
    """Opens a sweep's own run; closes it with the results, however the body ends.

    With resume=true the newest sweep of the same identity is resumed. `settings` are those of any of its jobs. Raises
    `UserError` if they do not allow a sweep, or, at the end, if a job failed.
    """
    if settings.tracking.offline:
        raise UserError("tracking.offline=true: must be false for a sweep, whose results come from MLflow")
    if isinstance(settings.resume, str):
        raise UserError(
            f"resume={settings.resume}: must be true or false for a sweep; resume=true resumes the newest "
            "one of this command"
        )
    store = open_store(settings.tracking)
    with noted() as stop_if_asked, _opened(store, folder.resolve(), plan, settings.resume) as sweep:
        with open_dict(plan.sweeper.config):  # a resumed sweep keeps its folder
            plan.sweeper.config.hydra.sweep.dir = str(sweep.folder)
        # matplotlib is imported while the jobs run.
        figures = "lenetexp.reporting.sweep_figures"
        threading.Thread(target=import_module, args=(figures,), daemon=True).start()
        status, failed = "FAILED", 0
        try:
            if settings.resume:
                sweep.resume()
        except BaseException:
            sweep.recorder.end(status)
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


@contextmanager
def _opened(store: Store, folder: Path, plan: Plan, resume: bool) -> Iterator[Sweep]:
    """Creates the sweep's own run, or reopens the newest one of its identity; locks its folder."""
    identity = plan.identity()
    before = search(store, f"tags.`{Tag.SWEEP}` = '{identity}'", at_most=1) if resume else []
    if before and before[0].is_here and Path(before[0].tags[Tag.FOLDER]).is_dir():
        folder = Path(before[0].tags[Tag.FOLDER])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_folder(folder)
    except UserError:
        raise UserError(f"resume=true: this sweep is running in {folder}; end it first") from None
    try:
        tags = {**origin_tags(folder), Tag.SWEEP: identity}
        if before:
            recorder = Recorder(store, before[0].run_id)
            recorder.reopen(tags)
        else:
            recorder = create_run(store, " × ".join(plan.names), tags)
        yield Sweep(recorder, folder, plan.names)
    finally:
        lock.release()


def _close(sweep: Sweep, status: str) -> int:
    """Shows the sweep's results and closes its run; returns how many runs failed.

    Raises `UserError` if the results cannot be shown. If something else ended the sweep, that is what the user must
    know, and this is a note. Raises `BrokenPipeError` if nobody reads what is printed.
    """
    failed, trouble = 0, None
    try:
        failed = sweep.results()
    except (UserError, OSError) as error:
        trouble = error
    try:
        spoiled = status == "FINISHED" and (failed or trouble is not None)
        sweep.recorder.end("FAILED" if spoiled else status)
    except UserError as error:
        trouble = trouble or error
    if isinstance(trouble, BrokenPipeError):
        raise trouble
    if trouble is not None:
        said = f"{trouble}; the same command with resume=true shows the sweep's results later"
        if status == "FINISHED":
            raise UserError(said) from trouble
        print(f"note: {said}", flush=True)
    if status == "KILLED":
        print(f"Stopped. To resume: {command_to_resume(None)}", flush=True)
    return failed


def failure_of(result: JobReturn) -> str:
    """Why a job failed; empty if it did not."""
    return "" if result.status == JobStatus.COMPLETED else " ".join(str(result._return_value).split())


def _quoted(text: str) -> str:
    """A text as Hydra's overrides take it: backslashes count only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"
