"""The results of a sweep again, or of any runs beside each other: scripts/compare.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from lenetexp.config.commands import CompareConfig
from lenetexp.config.identity import NOT_COMPARED, defines_experiment, swept_name
from lenetexp.errors import UserError
from lenetexp.sweeps.findings import of_two
from lenetexp.sweeps.results import COLUMNS, RECIPE, best_first, read_index, row_of, runs_of, show_results
from lenetexp.tracking.query import find_runs, find_sweep
from lenetexp.tracking.store import open_store

TARGET = "dataset._target_"


def compare(settings: CompareConfig, config: dict[str, Any], folder: Path) -> None:
    """Shows the results of a sweep, or of the runs that a filter selects; raises `UserError` if there are none."""
    store = open_store(settings.tracking, create=False)
    if settings.runs is None:
        sweep = find_sweep(store, settings.which)
        index = read_index(sweep)
        show_results(runs_of(store, sweep), index["keys"], folder, None, index.get("command", ()))
        return
    runs = find_runs(store, settings.runs)
    if not runs:
        raise UserError(f"runs={settings.runs}: selects no run of {settings.tracking.experiment}")
    # A dataset of torchvision's is known by its name: they all have one class.
    params = [run.params | ({TARGET: name} if (name := run.params.get("dataset.name")) else {}) for run in runs]
    keys = differing_keys(params)
    table = best_first([values | row_of(run) for values, run in zip(params, runs, strict=True)], keys)
    table[keys] = table[keys].fillna("").replace({"None": "null", "True": "true", "False": "false"})  # as typed
    classes = [key for key in keys if key.endswith("._target_")]
    table[classes] = table[classes].replace(r".*\.", "", regex=True)  # without their modules
    named = {
        run_id: swept_name(dict(values))
        for run_id, values in zip(table.run_id, table[keys].to_dict("records"), strict=True)
    }
    beside = of_two(runs, [named[run.run_id] or run.run_id for run in runs]) if len(runs) == 2 else []
    show_results(table, keys, folder, None, more=beside)


def differing_keys(params: Sequence[Mapping[str, str]]) -> list[str]:
    """The params in which runs differ, without those that follow from another."""
    table = DataFrame(params).drop(columns=[*NOT_COMPARED, *COLUMNS, *RECIPE], errors="ignore")
    differing = [key for key in table if defines_experiment(key) and table[key].nunique(dropna=False) > 1]
    # Adam has no momentum: the arguments that only one of several classes has follow from the class.
    classes = tuple(key.removesuffix("_target_") for key in differing if key.endswith("._target_"))
    own = [key for key in differing if table[key].notna().all() or not f"{key}.".startswith(classes)]
    # Of several that always go together, as scheduler.epochs with epochs, the shortest.
    shortest = table[sorted(own, key=len)].T.drop_duplicates().index
    return [key for key in own if key in shortest]
