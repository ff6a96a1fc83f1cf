"""The results of a sweep again, or of any runs beside each other: scripts/compare.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from lenetexp.config.commands import CompareConfig
from lenetexp.config.identity import ADDED, FORMER_VALUES, NOT_SET, SAME_WHEREVER, defines_experiment, swept_name
from lenetexp.errors import UserError
from lenetexp.sweeps.findings import of_two
from lenetexp.sweeps.results import best_first, read_index, row_of, runs_of
from lenetexp.sweeps.summary import show_results
from lenetexp.tracking.selection import find_runs, find_sweep
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
    table = tabulate_settings([run.params for run in runs])
    keys = differing_keys(table)
    values = table[keys]
    for key in keys:
        if key.endswith("._target_"):
            bare = values[key].str.replace(r".*\.", "", regex=True)  # without their modules
            values[key] = bare if bare.nunique() == values[key].nunique() else values[key]
    named = [swept_name(one) or run.run_id for one, run in zip(values.to_dict("records"), runs, strict=True)]
    beside = of_two(runs, named) if len(runs) == 2 else []
    rows = [{**one, **row_of(run)} for one, run in zip(values.to_dict("records"), runs, strict=True)]
    show_results(best_first(rows, keys), keys, folder, None, more=beside)


def tabulate_settings(params: Sequence[Mapping[str, str]]) -> DataFrame:
    """The settings that define each run's experiment, as they are typed; `NOT_SET` where a run has no such setting."""
    table = DataFrame([_defining(one) for one in params], dtype=object)
    # A sweep's runs also name the options that it chose, whose effect is in the settings.
    groups = {key.partition(".")[0] for key in table if "." in key}
    chosen = [key for key in table if key in groups or (key == "experiment" and table[key].isna().any())]
    table = table.drop(columns=chosen)
    for key, value in ADDED.items():  # older runs lack a setting that their class has now
        if key in table:
            target = f"{key.rpartition('.')[0]}._target_"
            has = table[key].notna()
            same = table[target].isin(table[target][has]) if target in table else ~has | has
            table.loc[~has & same, key] = str(value)
    table = table.fillna(NOT_SET).replace({"None": "null", "True": "true", "False": "false"})
    return table.replace(r"^(-?\d+)\.0$", r"\1", regex=True)  # on the command line 1.0 is 1


def _defining(params: Mapping[str, str]) -> dict[str, str]:
    """A run's params that define its experiment. A dataset of torchvision's is known by its name, wherever it lies."""
    known = {key: value for key, value in params.items() if defines_experiment(key)}
    if known.get(TARGET) == SAME_WHEREVER:
        known.pop("dataset.root", None)
        known[TARGET] = known.pop("dataset.name", SAME_WHEREVER)
    for key, (value, former) in FORMER_VALUES.items():
        if known.get(key) == str(former):
            known[key] = value
    return known


def differing_keys(table: DataFrame) -> list[str]:
    """The settings in which runs differ, without those that follow from another."""
    differing = [key for key in table if table[key].nunique() > 1]
    classes = {key.removesuffix("_target_"): key for key in differing if key.endswith("._target_")}

    def follows(key: str) -> bool:
        """Whether an argument says no more than its class: some classes lack it, all others agree on its value."""
        of = next((name for prefix, name in classes.items() if key.startswith(prefix) and key != name), None)
        values = {*table[key]}
        return of is not None and NOT_SET in values and len(values) == 2 and table.groupby(of)[key].nunique().max() == 1

    own = [key for key in differing if not follows(key)]
    # Of several that always go together, as scheduler.epochs with epochs, the shortest.
    shortest = table[sorted(own, key=len)].T.drop_duplicates().index
    return [key for key in own if key in shortest]
