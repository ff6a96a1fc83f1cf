"""Which runs run=, runs=, sweep= and resume= mean: a word, an id or its beginning, a folder, a registered model."""

import re
from pathlib import Path

from lenetexp.errors import UserError, counted, nearest, wrapped
from lenetexp.tracking import journal
from lenetexp.tracking.journal import Epoch, JournalReader
from lenetexp.tracking.names import Tag
from lenetexp.tracking.query import BEST_FIRST, RUNS, WITH_WEIGHTS, RecordedRun, get_run, search
from lenetexp.tracking.registry import run_of
from lenetexp.tracking.store import Store

RUN = "latest, best, best:DATASET, a run's id or its first characters, or its folder"
MOST_MATCHES = 8  # in a message


def find_run(store: Store, which: str) -> RecordedRun:
    """Find the run that `which` means: the latest or the best of the finished ones, or any one by what names it.

    Prints what it chose where others could be meant: of a sweep the best run, not the one that happened to begin last;
    the best run on one dataset, because accuracies on several cannot be compared; and newer runs that it passes over.
    """
    if which.startswith("models:"):
        return get_run(store, run_of(store, which))
    word, _, dataset = which.partition(":")
    if word not in ("latest", "best") or (dataset and word != "best"):
        return find_by_id(store, which, "run", RUN, words=("latest", "best"))
    newest = next(iter(search(store, WITH_WEIGHTS, at_most=1)), None)
    passed_over = _newer_elsewhere(store, newest.started if newest else 0)
    if newest is None:
        raise UserError(
            f"run={which}: no finished run in {store.shown}, experiment {store.experiment}; "
            f"{passed_over or 'train one: python scripts/run.py'}"
        )
    chosen, reason = newest, ""
    if word == "best":
        chosen, reason = _best_on(store, which, dataset or newest.dataset, is_chosen=bool(dataset))
    elif Tag.PARENT in newest.tags:
        chosen, reason = _best_of_sweep(store, newest)
    for message in (reason, passed_over if word == "latest" else ""):
        if message:
            print(wrapped(f"run={which}: {message}"))
    return chosen


def _newer_elsewhere(store: Store, than: int) -> str:
    """Name a newer finished run of another experiment, and a newer one that was recorded offline; empty if none."""
    messages, run_there = [], "a newer run" if than else "a run"
    others = {one.experiment_id: one.name for one in store.client.search_experiments()}
    others.pop(store.experiment_id, None)
    newer = f"{WITH_WEIGHTS} and attributes.start_time > {than}"
    for run in search(store, newer, at_most=1, experiments=[*others]) if others else []:
        messages.append(f"{run_there} is in tracking.experiment={others[run.experiment_id]}: run={run.run_id}")
    for path in sorted(store.runs_folder.glob(f"*/{journal.NAME}"), reverse=True):
        if path.stat().st_mtime * 1000 > than and _is_offline_run(path.parent, than):
            messages.append(f"{run_there} was recorded offline; to use it: python scripts/sync.py folder={path.parent}")
            break
    return "; ".join(messages)


def _is_offline_run(folder: Path, newer_than: int = 0) -> bool:
    """Return whether a run with weights was recorded in `folder` and never sent to a store."""
    try:
        events = JournalReader(folder)
    except UserError:
        return False
    return events.run_id is None and bool(events.of(Epoch)) and events.events[0].time > newer_than


def count_offline_runs(store: Store) -> int:
    """Count the runs beside the store that were recorded offline and not sent to any."""
    return sum(_is_offline_run(path.parent) for path in store.runs_folder.glob(f"*/{journal.NAME}"))


def _best_on(store: Store, which: str, dataset: str, is_chosen: bool) -> tuple[RecordedRun, str]:
    """Find the best run on a dataset, and say why it is that one; raise `UserError` if there is none."""
    runs = search(store, WITH_WEIGHTS, order=BEST_FIRST)
    best = {run.dataset.lower(): run for run in reversed(runs)}  # the first of each
    if dataset.lower() not in best:
        names = sorted({run.dataset for run in runs})
        raise UserError(f"run={which}: no finished run on {dataset}; there are on {', '.join(names)}"
                        f"{nearest(dataset, names)}")  # fmt: skip
    count = sum(run.dataset.lower() == dataset.lower() for run in runs)
    reason = f"the best of {counted(count, 'run')} on {best[dataset.lower()].dataset}"
    others = [f"run=best:{run.dataset}" for name, run in best.items() if name != dataset.lower()]
    if others and not is_chosen:
        reason += f", the newest run's dataset; of others: {', '.join(others)}"
    return best[dataset.lower()], reason


def _best_of_sweep(store: Store, newest: RecordedRun) -> tuple[RecordedRun, str]:
    """Find the best run of the sweep that `newest` is of, and say why it is that one."""
    parent = newest.tags[Tag.PARENT]
    by_results = get_run(store, parent).tags.get(Tag.BEST_RUN)  # with seeds, of the best mean
    of_sweep = f"tags.`{Tag.PARENT}` = '{parent}' and {WITH_WEIGHTS}"
    best = {run.dataset: run for run in reversed(search(store, of_sweep, order=BEST_FIRST))}  # the first of each
    run = best.pop(newest.dataset)
    if best:  # accuracies on several datasets cannot be compared
        others = ", ".join(f"on {name}: run={other.run_id}" for name, other in best.items())
        return run, f"the best run on {newest.dataset}, the newest run's dataset, of the newest sweep; {others}"
    if by_results:
        run = get_run(store, by_results)
    other = "" if run.run_id == newest.run_id else f"; the one that began last: run={newest.run_id}"
    return run, f"the best run of the newest sweep{other}"


def find_by_id(store: Store, which: str, key: str, allowed: str, words: tuple[str, ...] = ()) -> RecordedRun:
    """Find the run or sweep of this id, of an id that begins so, or in this folder.

    Raises `UserError` that says `key` and what is `allowed`, and the nearest of `words`, if there is none or several.
    """
    if re.fullmatch("[0-9a-f]{32}", which):
        return get_run(store, which, key, allowed)
    place = Path(which).expanduser()
    if place.is_dir():
        return _find_in_folder(store, place, f"{key}={which}")
    if re.fullmatch("[0-9a-f]{4,31}", which):
        everywhere = [one.experiment_id for one in store.client.search_experiments()]
        matches = search(store, f"attributes.run_id LIKE '{which}%'", MOST_MATCHES + 1, experiments=everywhere)
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(f"{run.run_id[:12]} ({run.name})" for run in matches[:MOST_MATCHES])
            more = " …" if len(matches) > MOST_MATCHES else ""
            raise UserError(f"{key}={which}: several runs begin so: {ids}{more}; give more characters")
    raise UserError(f"{key}={which}: there is no such run in {store.shown}; must be {allowed}{nearest(which, words)}")


def _find_in_folder(store: Store, folder: Path, typed: str) -> RecordedRun:
    events = JournalReader(folder)
    if events.run_id is not None:
        return get_run(store, events.run_id)
    if _is_offline_run(folder):
        raise UserError(f"{typed}: was recorded offline; send it first: python scripts/sync.py folder={folder}")
    everywhere = [one.experiment_id for one in store.client.search_experiments()]
    place = str(folder.resolve())
    quote = '"' if "'" in place else "'"
    for run in search(store, f"tags.`{Tag.FOLDER}` = {quote}{place}{quote}", at_most=1, experiments=everywhere):
        return run
    raise UserError(f"{typed}: is the folder of no run in {store.shown}; such are in outputs/runs and outputs/sweeps")


def find_runs(store: Store, which: str | list[str]) -> list[RecordedRun]:
    """Find the runs that `which` means: single ones, the newest finished ones as "latest:3", "all", or a filter's.

    A sweep's own run is none of them. Raises `UserError` for what is none of these, and for what names no run.
    """
    if isinstance(which, str) and (re.fullmatch("[0-9a-f]{4,32}", which) or Path(which).expanduser().is_dir()):
        which = [which]
    if isinstance(which, list):
        runs = [find_by_id(store, each, "runs", RUNS) for each in dict.fromkeys(which)]
        if sweep := next((run for run in runs if run.is_sweep), None):
            raise UserError(f"runs={sweep.run_id}: is a sweep; sweep={sweep.run_id} shows its runs")
        return [*{run.run_id: run for run in runs}.values()]
    if newest := re.fullmatch(r"latest:([1-9]\d{0,3})", which):
        finished = f"attributes.status = 'FINISHED' and tags.`{Tag.CONFIG_HASH}` LIKE '%'"
        return search(store, finished, at_most=int(newest[1]))
    return [run for run in search(store, "" if which == "all" else which) if not run.is_sweep]


def find_sweep(store: Store, which: str) -> RecordedRun:
    """Find a sweep's own run: the "latest", or by its id, its id's first characters or its folder; else `UserError`."""
    allowed = "latest, the id of a sweep's run or its first characters, or its folder"
    if which != "latest":
        run = find_by_id(store, which, "sweep", allowed, words=("latest",))
        if not run.is_sweep:
            raise UserError(f"sweep={which}: is not a sweep; must be {allowed}")
        return run
    if sweeps := search(store, f"tags.`{Tag.SWEEP}` LIKE '%'", at_most=1):
        return sweeps[0]
    raise UserError(
        f"sweep=latest: no sweep in {store.shown} yet; run one: python scripts/run.py -m optimizer.lr=0.01,0.1"
    )
