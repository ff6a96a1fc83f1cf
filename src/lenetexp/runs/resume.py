"""Find the run that a command with `resume` means, and continue it where it stopped."""

from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenetexp.cli import require_empty
from lenetexp.config.identity import (
    INVOCATION_KEYS,
    RECORDING_KEYS,
    hash_config,
    is_part_of_experiment,
    list_differences,
)
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.errors import UserError, format_error
from lenetexp.runs import provenance
from lenetexp.runs.trust import ALLOWED, read_config, require_trusted
from lenetexp.tracking.journal import Epoch, Journal, JournalReader, Mark, Result, Start
from lenetexp.tracking.names import SERIES, TEST_ACCURACY, File, Tag
from lenetexp.tracking.query import RecordedRun, list_offline_runs, search_runs
from lenetexp.tracking.selection import find_by_id
from lenetexp.tracking.store import open_store
from lenetexp.training.state import Training, load_checkpoint

# What is downloaded of another machine's run: files by name, never whole folders, which may hold anything.
REPRODUCE = [f"{File.REPRODUCE}/{name}" for name in ("command.txt", "packages.txt", "commit.txt", "uncommitted.diff")]
NEEDED = (File.CONFIG, File.DATASET, File.LAST, *REPRODUCE)


@dataclass(frozen=True)
class ResumePlan:
    """What a command with `resume` has to do."""

    previous: RecordedRun
    settings: RunConfig
    config: dict[str, Any]
    extends: bool = False  # a finished run by more epochs: a new run that begins where it ended

    def __post_init__(self) -> None:
        if self.previous.is_running_here:
            raise UserError(f"resume: run {self.previous.run_id} is running on this machine; end it first")

    def restore(self, training: Training, digest: str, folder: Path) -> Path:
        """Restore the run's state, if it had saved one, into `training`.

        Args:
            training: What learns, before its first step.
            digest: Of the images that were loaded.
            folder: A new folder, for a run of another machine.

        Returns:
            The folder where the run goes on: its own if that is on this machine, else `folder`.

        Raises:
            UserError: The state or the images are not those of the run, are damaged, or cannot be downloaded.
        """
        run = self.previous
        if run.folder is not None and not self.extends:
            folder = run.folder
        else:
            folder.mkdir(parents=True, exist_ok=True)
            require_empty(folder)
            if not self.extends:
                _download_run(run, folder)
        with run.open_files(File.LAST, File.DATASET) if self.extends else nullcontext(folder) as source:
            facts, last = provenance.read_dataset(source), source / File.LAST
            state = load_checkpoint(last) if last.exists() else None
        if facts is not None and facts["digest"] != digest:
            raise UserError(
                f"resume: run {run.run_id} was trained on other images than these "
                f"(digest {facts['digest'][:12]}, not {digest[:12]}); give it the same ones"
            )
        try:
            if state is not None:
                training.load_state_dict(state)
        except Exception as error:  # torch raises many kinds, and a stranger's file may hold anything
            raise UserError(
                f"resume: the checkpoint of run {run.run_id} is not of this net and recipe "
                f"({type(error).__name__}: {format_error(error)[:120]})"
            ) from None
        return folder


def find_previous_run(settings: RunConfig, config: dict[str, Any], folder: Path) -> ResumePlan | None:
    """Find the run that `settings.resume` means: recorded offline beside `folder`, else in the store.

    Returns:
        What to do, or None if there is no such run.

    Raises:
        UserError: The run is running, differs in its config, or no run has this id.
    """
    if isinstance(settings.resume, str):
        previous = _find_by_id(settings, settings.resume, folder)
        if not any(is_part_of_experiment(word.partition("=")[0]) for word in settings.overrides):
            return ResumePlan(previous, *_build_settings(previous, settings, config))
        return _plan_same_experiment(previous, settings, config)
    shorter = killed = None
    for previous in _list_recorded_runs(settings, folder):
        if previous.config_hash == hash_config(config):
            if previous.status == "RUNNING" and not previous.is_here:
                raise UserError(
                    f"resume=true: run {previous.run_id} is marked as running on {previous.tags.get(Tag.HOST)}; "
                    f"if it is not, resume it by its id: resume={previous.run_id}"
                )
            return ResumePlan(previous, settings, config)
        epochs = previous.params.get("epochs", "")  # looked at first, so that not every run's config is read
        fewer = previous.status == "FINISHED" and epochs.isdigit() and int(epochs) < settings.epochs
        if shorter is None and fewer and _is_shorter(list_differences(_read_config(previous), config)):
            shorter = previous
        if killed is None and previous.is_here and (previous.status == "KILLED" or previous.was_killed_here):
            killed = previous
    if plan := shorter or killed:
        return _plan_same_experiment(plan, settings, config)
    print("Nothing to resume: no interrupted run of this config. A new one begins.", flush=True)
    return None


def _plan_same_experiment(previous: RecordedRun, settings: RunConfig, config: dict[str, Any]) -> ResumePlan:
    """Plan to resume `previous` if it is this experiment, or the same with fewer epochs.

    Raises:
        UserError: It is another experiment.
    """
    differing = list_differences(_read_config(previous), config)
    differing.pop("dataset.root", None)  # pictures may have moved: their digest tells whether they are the same
    if not differing:
        return ResumePlan(previous, settings, config)
    run_id, words = previous.run_id, "true" if settings.resume is True else previous.run_id
    if previous.status == "FINISHED" and _is_shorter(differing):
        if set(differing) == {"epochs"}:
            return ResumePlan(previous, settings, config, extends=True)
        then, now = differing["epochs"]
        raise UserError(
            f"resume={words}: {settings.scheduler.name} spreads the learning rate over all epochs, so "
            f"run {run_id} of {then} is not the beginning of one of {now}; start a new run without "
            "resume, or choose scheduler=constant, step, multistep, piecewise, exponential or plateau"
        )
    keys = ", ".join(f"{key} ({then} there, {now} here)" for key, (then, now) in differing.items())
    ways = "give its own command, or start a new run without resume"
    if isinstance(settings.resume, str):
        ways = f"resume={run_id} alone takes the run's own settings; else {ways}"
    raise UserError(f"resume={words}: run {run_id} differs in {keys}; {ways}")


def _is_shorter(differing: Mapping[str, tuple[Any, Any]]) -> bool:
    """Return whether only the number of epochs differs, and a schedule that spans them."""
    others = {key for key in differing if not key.startswith("scheduler.") or key == "scheduler._target_"}
    then, now = differing.get("epochs", (0, 0))
    return others == {"epochs"} and isinstance(then, int) and isinstance(now, int) and then < now


def _list_recorded_runs(settings: RunConfig, folder: Path) -> list[RecordedRun]:
    """List the runs of single commands, the newest first."""
    try:
        store = None if settings.tracking.offline else open_store(settings.tracking, create=False)
    except UserError:
        if not settings.tracking.uri.startswith("sqlite"):
            raise
        store = None  # nothing was recorded yet: a first command may say resume=true as well
    if store is None:
        return list_offline_runs(folder)
    return [run for run in search_runs(store, f"tags.`{Tag.CONFIG_HASH}` LIKE '%'") if Tag.PARENT not in run.tags]


def _find_by_id(settings: RunConfig, which: str, folder: Path) -> RecordedRun:
    if settings.tracking.offline:
        place = Path(which).expanduser().resolve()
        for run in list_offline_runs(folder):
            runs = JournalReader(Path(run.run_id)).run_id
            if place == Path(run.run_id).resolve() or (runs and runs.startswith(which)):
                return run
        raise UserError(f"resume={which}: there is no such run beside {folder}")
    store = open_store(settings.tracking, create=False)
    run = find_by_id(store, which, "resume", "true, false, the id of a run or its first characters, or its folder")
    if run.is_sweep:
        raise UserError(f"resume={which}: is a sweep; resume it by its own command with resume=true")
    if run.deleted:
        raise UserError(f"resume={which}: was deleted; mlflow runs restore --run-id {which} restores it")
    if not run.config_hash:
        raise UserError(f"resume={which}: is not a run of lenetexp's")
    return run


def _read_config(previous: RecordedRun) -> dict[str, Any]:
    """Read the config that the run was started with.

    Raises:
        UserError: It is damaged.
    """
    with previous.open_files(File.CONFIG) as folder:
        try:
            text = (folder / File.CONFIG).read_text()
        except (OSError, ValueError) as error:
            raise UserError(f"resume={previous.run_id}: its record is damaged ({format_error(error)[:120]})") from None
    return read_config(text, f"resume={previous.run_id}")


def _build_settings(
    previous: RecordedRun, settings: RunConfig, config: Mapping[str, Any]
) -> tuple[RunConfig, dict[str, Any]]:
    """Build the run's own settings and config, to be recorded where this command says.

    Raises:
        UserError: They name something that is not trusted.
    """
    values = {key: config[key] for key in (*INVOCATION_KEYS, *RECORDING_KEYS) if key in config}
    own = {**_read_config(previous), **values}
    with previous.open_files(File.DATASET) as folder:
        facts = provenance.read_dataset(folder) or {}
    root = provenance.find_root(facts.get("root"), facts.get("root_from_run"), previous.folder)
    if root is not None and isinstance(own.get("dataset"), dict):
        # The absolute path: the config's may be relative to another folder.
        own["dataset"] = {**own["dataset"], "root": root}
    checked = check_config(RunConfig, own)
    for part in ALLOWED:
        require_trusted(getattr(checked, part).build_call(), part, settings.trust)
    return checked, own


def _download_run(previous: RecordedRun, folder: Path) -> None:
    """Bring a run of another machine into `folder`, with a journal of what the store has of it."""
    previous.download(folder, *[path for path in previous.list_artifacts() if path in NEEDED])
    swept = {key.removeprefix(Tag.SWEPT): value for key, value in previous.tags.items() if key.startswith(Tag.SWEPT)}
    epochs: dict[int, Epoch] = {}
    for key in SERIES:
        for metric in previous.get_history(key):
            epoch = epochs.setdefault(metric.step, Epoch(epoch=metric.step, time=metric.timestamp))
            epoch.metrics[key] = metric.value
    with closing(Journal(folder)) as events:
        # This command's own event of its start has the true number of epochs.
        events.add(Start(run_id=previous.run_id, tags=previous.tags, params=previous.params, swept=swept, epochs=0))
        for _, epoch in sorted(epochs.items()):
            events.add(epoch)
        if TEST_ACCURACY in previous.metrics:
            events.add(Result(values={}))
        events.add(Mark(event="sent"))
