"""A sweep's own run in MLflow: what is finished already, what is left to do, its results at the end."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

from lenetexp.config.identity import shorten_keys
from lenetexp.config.schema import RunConfig
from lenetexp.errors import UserError, format_error, pluralize
from lenetexp.reporting.terminal import SweepProgress, format_path
from lenetexp.runs.interrupt import Interruption, defer_signals, is_stop_requested
from lenetexp.runs.provenance import format_resume_command, get_command_words
from lenetexp.sweeps.plan import STOPPED_EARLY, Job, Plan, before_first_run, stream_jobs
from lenetexp.sweeps.report import add_report
from lenetexp.sweeps.results import RESULTS, load_runs, read_index
from lenetexp.sweeps.summary import show_results
from lenetexp.tracking.journal import Epoch, lock_folder
from lenetexp.tracking.names import File, Tag
from lenetexp.tracking.query import RecordedRun, get_run, list_children, search_runs
from lenetexp.tracking.recorder import Recorder, build_origin_tags, create_run
from lenetexp.tracking.store import Store, open_store
from lenetexp.tracking.view import build_sweep_tags


@dataclass
class Sweep:
    """A sweep while it runs."""

    recorder: Recorder
    folder: Path
    keys: Sequence[str]
    command: Sequence[str] = ()  # the words of a command line that may be given again with more values
    # What sweep.json keeps of each job, by its config's hash: swept, run_id, reason, place.
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[str, RecordedRun] = field(default_factory=dict)  # by config hash
    interrupted: dict[str, RecordedRun] = field(default_factory=dict)  # of this sweep only
    requests: set[str] = field(default_factory=set)  # hashes of the jobs of this command

    def enter(self, job: Job) -> RecordedRun | None:
        """Take a job into the sweep. Return a finished run of exactly its config, which then counts for it, or None."""
        finished = self.finished.get(job.config_hash)
        place = self.jobs.get(job.config_hash, {}).get("place")
        if place is None or not (finished or job.config_hash in self.interrupted):
            there = [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()]
            place = max([*there, *(entry["place"] for entry in self.jobs.values())], default=-1) + 1
        run_id = finished.run_id if finished else None
        self.jobs[job.config_hash] = {"swept": job.swept, "run_id": run_id, "reason": "", "place": place}
        self.requests.add(job.config_hash)
        return finished

    def get_folder(self, job: Job) -> Path:
        return self.folder / str(self.jobs[job.config_hash]["place"])

    def build_overrides(self, job: Job) -> list[str]:
        """Return what the job is launched with: its own overrides, and its place in the sweep."""
        folder = self.get_folder(job)
        place = {
            "+job.parent": self.recorder.run_id,
            # Percent-encoded, so that Hydra takes any value as plain text.
            "+job.cwd": quote(str(Path.cwd())),
            "+job.swept": quote(json.dumps(job.swept, ensure_ascii=False)),
            "hydra.sweep.dir": str(folder.parent),
            "hydra.sweep.subdir": folder.name,
        }
        words = [word for word in job.overrides if not word.startswith("resume=")]
        if interrupted := self.interrupted.get(job.config_hash):
            place["resume"] = interrupted.run_id
        else:
            words.append("resume=false")
        return words + [f"{key}={QuotedString(value, Quote.single).with_quotes()}" for key, value in place.items()]

    def mark_finished(self, job: Job) -> None:
        """Note a finished job: should a search propose its config again, its run counts."""
        same = f"tags.`{Tag.CONFIG_HASH}` = '{job.config_hash}'"
        for child in list_children(self.recorder.store, self.recorder.run_id, same):
            if child.is_result:
                self.finished[job.config_hash] = child

    def note_failure(self, job: Job, result: JobReturn) -> bool:
        """Note why a job failed, and return whether it did."""
        failed = result.status != JobStatus.COMPLETED
        if failed:
            self.jobs[job.config_hash]["reason"] = format_error(result._return_value)
        return failed

    def save_index(self) -> None:
        """Save what the sweep consists of, so that its results can be shown at any time, and name it by that."""
        content = {"keys": list(self.keys), "jobs": self.jobs, "command": list(self.command)}
        runs = "1 run" if len(self.jobs) == 1 else f"{len(self.jobs)} runs"
        name = f"{' × '.join(shorten_keys(self.keys))}, {runs}"
        self.recorder.store.client.update_run(self.recorder.run_id, name=name)
        self.recorder.store.client.log_text(self.recorder.run_id, json.dumps(content, indent=1), File.SWEEP)

    def run(self, jobs: Sequence[Job], launcher: Launcher) -> None:
        """Run those of `jobs` that are not finished."""
        todo = [job for job in jobs if not self.enter(job)]
        self.save_index()
        if skipped := len(jobs) - len(todo):
            print(f"{skipped} of {pluralize(len(jobs), 'run')} finished already, not run again", flush=True)
        if not todo:
            return
        epochs = sum(job.settings.epochs for job in todo)
        most = f"{pluralize(len(todo), 'run')}, at most {pluralize(epochs, 'epoch')} in all"
        print(f"{most}, in {format_path(self.folder)}", flush=True)
        with self.show_progress(launcher, len(todo), epochs):
            stream_jobs(
                launcher,
                map(self.build_overrides, todo),
                lambda i, result: self.note_failure(todo[i], result),
                len(todo),
            )

    def show_progress(
        self, launcher: Any, jobs: int, epochs: int, on_epoch: Callable[[Path, Epoch], object] = lambda *_: None
    ) -> SweepProgress:
        """Show the live view of `jobs` jobs with `epochs` epochs in all.

        Args:
            launcher: The launcher, which knows how many of its processes are ready.
            jobs: Number of jobs.
            epochs: Number of epochs of all jobs.
            on_epoch: Called with a job's folder and each of its epochs.
        """

        def describe_phase(has_begun: bool) -> str:
            """Describe what the user waits for, if that is not the runs."""
            if is_stop_requested():
                return "stopping"
            waits = "" if has_begun else getattr(launcher, "readiness", "")
            return waits and f"starting: {waits}"

        return SweepProgress(self.folder, jobs, epochs, on_epoch, describe_phase)

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to show: a run, or the reason why a job did not become one."""
        reasons = (entry["reason"] for entry in self.jobs.values())
        return any(reasons) or bool(list_children(self.recorder.store, self.recorder.run_id))

    def show_results(self, is_whole: bool) -> int:
        """Show the results in the terminal, the sweep's folder and MLflow.

        Args:
            is_whole: Whether the sweep has run to its end; if not, others say how to go on.

        Returns:
            How many runs failed.
        """
        store, run_id = self.recorder.store, self.recorder.run_id
        # No job runs any more: one that is marked as running was killed.
        for child in list_children(store, run_id, "attributes.status = 'RUNNING'"):
            reason = self.jobs.get(child.config_hash, {}).get("reason") or "its process was gone"
            Recorder(store, child.run_id).mark_killed(reason)
        self.save_index()
        runs = load_runs(store, get_run(store, run_id))
        show_results(runs, self.keys, self.folder, self.recorder, self.command if is_whole else ())
        add_report(self.recorder, runs, self.keys, self.folder, self.command)
        return int((runs.config_hash.isin(self.requests) & ~runs.status.isin(RESULTS)).sum())


@contextmanager
def record_sweep(settings: RunConfig, folder: Path, plan: Plan) -> Iterator[Sweep]:
    """Open a sweep's own run, and close it with the results however the body ends.

    Args:
        settings: The settings of any of its jobs.
        folder: The sweep's folder.
        plan: What it varies.

    Raises:
        UserError: The settings do not allow a sweep; or, at the end, a job failed.
    """
    if settings.tracking.offline:
        raise UserError("tracking.offline=true: must be false for a sweep, whose results come from MLflow")
    if isinstance(settings.resume, str):
        raise UserError(
            f"resume={settings.resume}: must be true or false for a sweep; resume=true resumes the newest "
            "one of this command"
        )
    with before_first_run():
        store = open_store(settings.tracking)
    with defer_signals() as stop_if_asked, _open_sweep_run(store, folder.resolve(), plan, settings.resume) as sweep:
        with open_dict(plan.sweeper.config):  # a resumed sweep keeps its folder
            plan.sweeper.config.hydra.sweep.dir = str(sweep.folder)
        # matplotlib and scipy are imported while the jobs run.
        for module in ("lenetexp.reporting.sweep_figures", "scipy.stats"):
            threading.Thread(target=import_module, args=(module,), daemon=True).start()
        status, failed = "FAILED", 0
        try:
            stop_if_asked()
            yield sweep
            stop_if_asked()
            status = "FINISHED"
        except (Interruption, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            failed = _close(sweep, status)
    if failed:
        raise UserError(
            f"{failed} of {pluralize(len(sweep.requests), 'run')} failed; resume=true runs only those again"
        )


@contextmanager
def _open_sweep_run(store: Store, folder: Path, plan: Plan, resume: bool) -> Iterator[Sweep]:
    """Create the sweep's own run, or reopen the newest one of its identity. Lock its folder."""
    identity = plan.compute_identity()
    runs = search_runs(store, f"tags.`{Tag.SWEEP}` = '{identity}'", at_most=1) if resume else []
    before = next(iter(runs), None)
    if before and before.is_here and Path(before.tags[Tag.FOLDER]).is_dir():
        folder = Path(before.tags[Tag.FOLDER])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_folder(folder)
    except UserError:
        raise UserError(f"resume=true: this sweep is running in {folder}; end it first") from None
    try:
        remaining = _load_earlier_runs(store, before) if resume else {}
        tags = {**build_origin_tags(folder), Tag.SWEEP: identity}
        if before:
            recorder = Recorder(store, before.run_id)
            recorder.reopen(tags)
        else:
            recorder = create_run(store, " × ".join(shorten_keys(plan.names)), tags)
        with suppress(UserError):  # the sweep does not depend on it
            theirs = store.client.get_experiment(store.experiment_id).tags  # what its owner changed stays
            for key, value in build_sweep_tags(recorder.run_id, plan.names).items():
                if key not in theirs:
                    store.client.set_experiment_tag(store.experiment_id, key, value)
        command = get_command_words() if plan.kind == "grid" else []  # a search would propose other settings
        yield Sweep(recorder, folder, plan.names, command, **remaining)
    finally:
        lock.release()


def _load_earlier_runs(store: Store, before: RecordedRun | None) -> dict[str, Any]:
    """Load the jobs of the sweep that is resumed, with finished and interrupted runs. Close those of dead processes."""
    for run in search_runs(store, "attributes.status = 'RUNNING'"):
        if run.was_killed_here:
            Recorder(store, run.run_id).mark_killed("its process was gone")
    ended_runs = search_runs(store, "attributes.status = 'FINISHED'")
    mine = list_children(store, before.run_id) if before else []
    return {
        "jobs": read_index(before)["jobs"] if before and File.SWEEP in before.list_artifacts() else {},
        # Of several finished runs of one config the first one counts, and this sweep's own before all others.
        "finished": {run.config_hash: run for run in [*ended_runs, *mine] if run.is_result},
        "interrupted": {run.config_hash: run for run in mine if not run.is_result},
    }


def _close(sweep: Sweep, status: str) -> int:
    """Show the results and close the sweep's run.

    Returns:
        How many runs failed.

    Raises:
        UserError: It cannot be closed.
    """
    failed, trouble, has_begun = 0, None, True
    try:
        if has_begun := status != "KILLED" or sweep.has_begun:
            failed = sweep.show_results(is_whole=status != "KILLED")
        else:
            sweep.save_index()
    except (UserError, OSError) as error:
        trouble = error
    try:
        sweep.recorder.terminate("FAILED" if status == "FINISHED" and (failed or trouble) else status)
    except UserError as error:
        trouble = trouble or error
    if isinstance(trouble, BrokenPipeError):  # nobody reads what is printed
        raise trouble
    if trouble:
        message = f"{trouble}; the same command with resume=true shows the sweep's results later"
        if status == "FINISHED":
            raise UserError(message) from trouble
        print(f"note: {message}", flush=True)  # what ended the sweep is what the user must know
    if status == "KILLED":
        print(f"Stopped. To resume: {format_resume_command(None)}" if has_begun else STOPPED_EARLY, flush=True)
    return failed
