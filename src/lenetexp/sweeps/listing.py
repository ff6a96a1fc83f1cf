"""scripts/runs.py: the runs and sweeps in the store, the newest first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lenetexp.config.commands import RunsConfig
from lenetexp.errors import get_terminal_width, pluralize, wrap_text
from lenetexp.reporting.terminal import format_rows, format_table
from lenetexp.tracking.names import BEST_ACCURACY, TEST_ACCURACY, Tag
from lenetexp.tracking.query import RecordedRun, search_runs
from lenetexp.tracking.selection import count_offline_runs, find_runs
from lenetexp.tracking.store import Store, open_store

ID = 8  # characters, which run= and sweep= take
DATASET, LEAST = 8, 9  # characters for a dataset, and at least for what was asked: 80 with the longest status
SWEEP_BEST = "sweep/best_val_accuracy"


def list_runs(settings: RunsConfig, config: dict[str, Any], folder: Path) -> None:
    """Print a table of runs, in which a sweep is one line, and what to do with them."""
    store = open_store(settings.tracking, create=False)
    everything = search_runs(store, "")
    jobs = Counter(run.tags.get(Tag.PARENT) for run in everything)
    if settings.runs is None:
        runs = [run for run in everything if Tag.PARENT not in run.tags]
    else:
        runs = sorted(find_runs(store, settings.runs), key=lambda run: -run.started)
    entries = runs[: settings.count]
    if entries:
        print(_format_table(entries, {run.run_id: run for run in everything}, jobs))
    more = len(runs) - len(entries)
    notes = [f"{more} more: count={len(runs)}"] if more else []
    notes += _describe_others(store, settings) if settings.runs is None else []
    if not entries:
        notes.insert(0, f"no run in {store.label}, experiment {store.experiment}; train one: python scripts/run.py")
    print("\n".join(map(wrap_text, notes)), end="\n" if notes else "")
    if commands := _next_commands(entries):
        print(f"\n{format_rows(commands)}")


def _format_table(runs: Sequence[RecordedRun], by_id: Mapping[str, RecordedRun], jobs: Mapping[str | None, int]) -> str:
    """Format one line each. The settings are shortened to what the terminal has room for."""
    best = {run.run_id: by_id.get(run.tags.get(Tag.BEST_RUN, "")) for run in runs}
    others = {
        "run": [run.run_id[:ID] for run in runs],
        "began": [_format_time(run) for run in runs],
        "asked": [""] * len(runs),
        "dataset": [_shorten((best[run.run_id] or run).dataset, DATASET) for run in runs],
        "validation": [_format_percent(run, SWEEP_BEST if run.is_sweep else BEST_ACCURACY) for run in runs],
        "test": [_format_percent(best[run.run_id] or run, TEST_ACCURACY) for run in runs],
        "status": [_format_status(run) for run in runs],
    }
    room = max(LEAST, get_terminal_width() - max(map(len, format_table(others).splitlines())) + len("asked"))
    return format_table({**others, "asked": [_shorten(_format_label(run, jobs), room) for run in runs]})


def _shorten(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _format_status(run: RecordedRun) -> str:
    return "killed" if run.was_killed_here else run.ending or run.status.lower()


def _format_label(run: RecordedRun, jobs: Mapping[str | None, int]) -> str:
    """Return the settings on the command line. A run's name says just that, unless there were none."""
    if run.is_sweep:
        return f"{pluralize(jobs[run.run_id], 'run')}: {run.name.rpartition(', ')[0] or run.name}"
    folder = Path(run.tags.get(Tag.FOLDER, "")).name
    return "" if run.name == folder else run.name


def _format_time(run: RecordedRun) -> str:
    began = datetime.fromtimestamp(run.started / 1000)
    return f"{began:%m-%d %H:%M}" if began.year == datetime.now().year else f"{began:%Y-%m-%d}"


def _format_percent(run: RecordedRun, key: str) -> str:
    return f"{run.metrics[key]:.2%}" if key in run.metrics else ""


def _describe_others(store: Store, settings: RunsConfig) -> list[str]:
    """Describe runs that the table cannot show: of other experiments, and recorded offline."""
    notes = []
    for one in store.client.search_experiments():
        if one.experiment_id != store.experiment_id and (
            runs := search_runs(store, "", experiments=[one.experiment_id])
        ):
            notes.append(f"{pluralize(len(runs), 'run')} in another experiment: tracking.experiment={one.name}")
    if offline := count_offline_runs(store):
        notes.append(f"{pluralize(offline, 'run')} recorded offline and not sent yet: python scripts/sync.py")
    return notes


def _next_commands(runs: Sequence[RecordedRun]) -> list[tuple[str, str]]:
    """List what one would type next, with the newest of the table."""
    trained = [run.run_id[:ID] for run in runs if not run.is_sweep and BEST_ACCURACY in run.metrics]
    sweeps = [run.run_id[:ID] for run in runs if run.is_sweep]
    commands = []
    if trained:
        commands.append(("predict", f"python scripts/predict.py run={trained[0]}"))
    if sweeps:
        commands.append(("sweep", f"python scripts/compare.py sweep={sweeps[0]}"))
    if len(trained) > 1:
        commands.append(("compare", f"python scripts/compare.py 'runs=[{trained[0]},{trained[1]}]'"))
    if sweeps or trained:
        which = f"sweep={sweeps[0]}" if sweeps else f"run={trained[0]}"
        commands.append(("report", f"python scripts/report.py {which}"))
    return commands
