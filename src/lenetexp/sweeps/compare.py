"""The results of a sweep again, or of any runs: scripts/compare.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from lenetexp.config.identity import NOT_COMPARED, defines_experiment
from lenetexp.config.schema import CompareConfig
from lenetexp.errors import UserError
from lenetexp.sweeps.results import COLUMNS, RECIPE, best_first, read_index, row_of, runs_of, show_results
from lenetexp.tracking.query import find_sweep, search
from lenetexp.tracking.store import open_store


def compare(settings: CompareConfig, config: dict[str, Any], folder: Path) -> None:
    """Shows the results of a sweep, or of the runs that a filter selects; raises `UserError` if there are none."""
    store = open_store(settings.tracking, create=False)
    if settings.runs is None:
        sweep = find_sweep(store, settings.which)
        show_results(runs_of(store, sweep), read_index(sweep)["keys"], folder, None)
        return
    runs = [run for run in search(store, settings.runs) if not run.is_sweep]
    if not runs:
        raise UserError(f"runs={settings.runs}: selects no run of {settings.tracking.experiment}")
    keys = differing_keys([run.params for run in runs])
    found = [{key: _value(run.params, key) for key in keys} | row_of(run) for run in runs]
    show_results(best_first(found, keys), keys, folder, None)


def differing_keys(params: Sequence[Mapping[str, str]]) -> list[str]:
    """The params in which runs differ, without those that follow from another."""
    table = DataFrame(params).drop(columns=[*NOT_COMPARED, *COLUMNS, *RECIPE], errors="ignore")
    differing = [key for key in table if defines_experiment(key) and table[key].nunique(dropna=False) > 1]
    # Adam has no momentum: the arguments that only one of several classes has follow from the class.
    classes = tuple(key.removesuffix("_target_") for key in differing if key.endswith("._target_"))
    own = [key for key in differing if table[key].notna().all() or not f"{key}.".startswith(classes)]
    # Of several that always go together, as scheduler.epochs with epochs, the shortest.
    by_values = {tuple(_value(each, key) for each in params): key for key in sorted(own, key=len, reverse=True)}
    return [key for key in own if key in by_values.values()]


def _value(params: Mapping[str, str], key: str) -> str:
    """A param's value; a class without its modules."""
    value = params.get(key, "")
    return value.rpartition(".")[2] if key.endswith("._target_") else value
