"""scripts/compare.py: the results of a sweep again, or any runs beside each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame

from lenetexp.config.commands import CompareConfig
from lenetexp.config.identity import ADDED, NOT_SET, SAME_WHEREVER, format_swept, is_part_of_experiment
from lenetexp.errors import UserError
from lenetexp.sweeps.findings import compare_two_runs
from lenetexp.sweeps.results import build_row, load_runs, read_index, sort_best_first
from lenetexp.sweeps.summary import show_results
from lenetexp.tracking.selection import find_runs, find_sweep
from lenetexp.tracking.store import open_store

TARGET = "dataset._target_"


def compare(settings: CompareConfig, config: dict[str, Any], folder: Path) -> None:
    """Show the results of a sweep, or of the runs that a filter selects.

    Raises:
        UserError: There are none.
    """
    store = open_store(settings.tracking, create=False)
    if settings.runs is None:
        sweep = find_sweep(store, settings.which)
        index = read_index(sweep)
        show_results(load_runs(store, sweep), index["keys"], folder, None, index.get("command", ()))
        return
    runs = find_runs(store, settings.runs)
    if not runs:
        raise UserError(f"runs={settings.runs}: selects no run of {settings.tracking.experiment}")
    table = tabulate_settings([run.params for run in runs])
    keys = find_differing_keys(table)
    values = table[keys]
    for key in keys:
        if key.endswith("._target_"):
            bare = values[key].str.replace(r".*\.", "", regex=True)  # without their modules
            values[key] = bare if bare.nunique() == values[key].nunique() else values[key]
    names = [format_swept(one) or run.run_id for one, run in zip(values.to_dict("records"), runs, strict=True)]
    comparison = compare_two_runs(runs, names) if len(runs) == 2 else []
    rows = [{**one, **build_row(run)} for one, run in zip(values.to_dict("records"), runs, strict=True)]
    show_results(sort_best_first(rows, keys), keys, folder, None, more=comparison)


def tabulate_settings(params: Sequence[Mapping[str, str]]) -> DataFrame:
    """Tabulate the settings that define each run's experiment, as they are typed. `NOT_SET` where a run lacks one."""
    table = DataFrame([_select_defining(one) for one in params], dtype=object)
    # A sweep's runs also name the options that it chose, whose effect is in the settings.
    groups = {key.partition(".")[0] for key in table if "." in key}
    options = [key for key in table if key in groups or (key == "experiment" and table[key].isna().any())]
    table = table.drop(columns=options)
    for key, value in ADDED.items():  # older runs lack a setting that their class has now
        if key in table:
            target = f"{key.rpartition('.')[0]}._target_"
            has = table[key].notna()
            same = table[target].isin(table[target][has]) if target in table else ~has | has
            table.loc[~has & same, key] = str(value)
    table = table.fillna(NOT_SET).replace({"None": "null", "True": "true", "False": "false"})
    return table.replace(r"^(-?\d+)\.0$", r"\1", regex=True)  # on the command line 1.0 is 1


def _select_defining(params: Mapping[str, str]) -> dict[str, str]:
    """Return a run's params that define its experiment. A dataset of torchvision counts by its name alone."""
    settings = {key: value for key, value in params.items() if is_part_of_experiment(key)}
    if settings.get(TARGET) == SAME_WHEREVER:
        settings.pop("dataset.root", None)
        settings[TARGET] = settings.pop("dataset.name", SAME_WHEREVER)
    if settings.get("device.threads") == "None":
        settings["device.threads"] = "auto"  # what null was called before there was auto
    return settings


def find_differing_keys(table: DataFrame) -> list[str]:
    """Return the settings in which runs differ, without those that follow from another."""
    differing = [key for key in table if table[key].nunique() > 1]
    classes = {key.removesuffix("_target_"): key for key in differing if key.endswith("._target_")}

    def follows(key: str) -> bool:
        """Return whether an argument says no more than its class: some classes lack it, the others agree on it."""
        of = next((name for prefix, name in classes.items() if key.startswith(prefix) and key != name), None)
        values = {*table[key]}
        return of is not None and NOT_SET in values and len(values) == 2 and table.groupby(of)[key].nunique().max() == 1

    own = [key for key in differing if not follows(key)]
    # Of several that always go together, as scheduler.epochs with epochs, the shortest.
    shortest = table[sorted(own, key=len)].T.drop_duplicates().index
    return [key for key in own if key in shortest]
