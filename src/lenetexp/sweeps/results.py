"""What a set of runs shows: a table, pictures, the best run. Read from MLflow, so at any time: scripts/compare.py."""

import json
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

from pandas import DataFrame, Series, isna

from lenetexp.config.identity import NOT_COMPARED, defines_experiment, short, short_keys, swept_name, trust_needed
from lenetexp.config.schema import CompareConfig
from lenetexp.errors import UserError, one_line, wrapped
from lenetexp.reporting.run_summary import how_to_look
from lenetexp.reporting.terminal import rows, shown, table, try_draw
from lenetexp.tracking.names import BEST_ACCURACY, BEST_EPOCH, BEST_LOSS, TEST_ACCURACY, File, Tag
from lenetexp.tracking.query import RecordedRun, children, find_runs, find_sweep, get_run
from lenetexp.tracking.recorder import Recorder
from lenetexp.tracking.store import Store, open_store

SEED, TARGET = "seed", "dataset._target_"
# What can become of a run. Whatever was trained to an end is a result; failed and killed runs are not.
RESULTS = ("finished", "did not learn", "at chance", "collapsed", "diverged", "pruned")
STATUSES = (*RESULTS, "failed", "killed", "not run")
# What is known of each run: the columns of table.csv after the swept keys, and others.
CSV = ("best_val_accuracy", "best_epoch", "test_accuracy", "seconds", "status", "reason", "run_id")
COLUMNS = (*CSV, "best_val_loss", "curve", "trust", "before", "config_hash")
# What is known of each recipe: the runs that differ only in their seed. Accuracy, loss and test are means; the half
# width is that of a 95 % interval; a curve is pairs of epoch and validation accuracy.
RECIPE = ("accuracy", "loss", "deviation", "half_width", "test", "runs", "ends", "diverged", "curves", "best")


def compare(settings: CompareConfig, config: dict[str, Any], folder: Path) -> None:
    """Shows the results of a sweep, or of the runs that a filter selects; raises `UserError` if there are none."""
    store = open_store(settings.tracking, create=False)
    if settings.runs is None:
        sweep = find_sweep(store, settings.which)
        show_results(runs_of(store, sweep), read_index(sweep)["keys"], folder, None)
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
    show_results(table, keys, folder, None)


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


def runs_of(store: Store, sweep: RecordedRun) -> DataFrame:
    """What became of every run of a sweep, the best first."""
    index = read_index(sweep)
    # Of a job that was given again, the finished run counts, else the newest.
    mine = sorted(children(store, sweep.run_id), key=lambda run: (run.status == "FINISHED", run.started))
    by_hash = {run.config_hash: run for run in mine}
    found = []
    for config_hash, entry in index["jobs"].items():
        run = get_run(store, entry["run_id"]) if entry["run_id"] else by_hash.get(config_hash)
        swept = {key: entry["swept"].get(key, "") for key in index["keys"]}
        found.append({**swept, **row_of(run, entry["reason"], sweep.run_id), "config_hash": config_hash})
    return best_first(found, index["keys"])


def read_index(sweep: RecordedRun) -> dict[str, Any]:
    """A sweep's keys, and its jobs by their config's hash. Raises `UserError` if they are missing or damaged."""
    try:
        with sweep.files(File.SWEEP) as folder:
            index: dict[str, Any] = json.loads((folder / File.SWEEP).read_text())
        for entry in index["jobs"].values():
            entry["swept"].items(), entry["run_id"], entry["reason"]
        list(index["keys"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"sweep={sweep.run_id}: its {File.SWEEP} is damaged ({one_line(error)[:80]})") from None
    return index


def row_of(run: RecordedRun | None, reason: str = "", sweep: str | None = None) -> dict[str, Any]:
    """A run of the store, or a sweep's job that never became one, as `COLUMNS`; `reason` is why its job failed."""
    if run is None:
        return {"status": "failed" if reason else "not run", "reason": reason, "before": False}
    tags, metrics = run.tags, run.metrics
    finished = run.status == "FINISHED"
    status = run.ending or "finished" if finished else run.status.lower()
    # A finished run's reason is of an earlier command that did not get so far.
    known = ("" if status == "finished" else tags.get(Tag.REASON, "")) or tags.get(Tag.UNSENT, "")
    return {
        "best_val_accuracy": metrics.get(BEST_ACCURACY, nan),
        "best_val_loss": metrics.get(BEST_LOSS, nan),
        "best_epoch": metrics.get(BEST_EPOCH, nan),
        "test_accuracy": metrics.get(TEST_ACCURACY, nan),
        "seconds": run.seconds,
        "status": status,
        "reason": known or ("" if finished else reason),
        "run_id": run.run_id,
        "curve": [(metric.step, metric.value) for metric in run.history("val/accuracy")],
        "trust": trust_needed([run.params.get(f"{key}._target_", "") for key in ("model", "dataset")]),
        "before": sweep is not None and tags.get(Tag.PARENT) != sweep,  # run by an earlier command
    }


def best_first(found: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> DataFrame:
    """Runs as a table of the swept keys and `COLUMNS`, in the order by which predict.py's run=best is chosen."""
    runs = DataFrame(found, columns=[*keys, *COLUMNS])
    return runs.sort_values(["best_val_accuracy", "best_val_loss"], ascending=[False, True], ignore_index=True)


def recipes_of(runs: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Runs that differ only in their seed as one line of the other keys and `RECIPE` each, the best mean first."""
    others = [key for key in keys if key != SEED]
    recipes = []
    for _, group in runs.groupby(others or (lambda _: 0), sort=False, dropna=False):
        counting = results_of(group)
        if SEED in keys:
            counting = counting.drop_duplicates(SEED)  # the best comes first
        accuracies = counting.best_val_accuracy
        ends = group.status[group.status != "finished"].value_counts(sort=False)
        recipe = {
            "accuracy": accuracies.mean(),
            "loss": counting.best_val_loss.mean(),  # decides between equal accuracies
            "deviation": accuracies.std(),  # n - 1
            "half_width": half_width(accuracies),
            "test": counting.test_accuracy.mean(),
            "runs": f"{len(accuracies)} of {len(group)}",
            "ends": ", ".join(f"{count} {status}" for status, count in ends.items()),
            "diverged": "diverged" in ends,
            "curves": [*filter(None, group.curve.dropna())],
            "best": group.index[0],  # among the runs
        }
        recipes.append({**group[others].iloc[0], **recipe})
    found = DataFrame(recipes, columns=[*others, *RECIPE])
    return found.sort_values(["accuracy", "loss"], ascending=[False, True], ignore_index=True)


def results_of(runs: DataFrame) -> DataFrame:
    """The runs whose accuracy counts in a mean."""
    return runs[runs.status.isin(RESULTS)].dropna(subset="best_val_accuracy")


def half_width(accuracies: Series) -> float:
    """Half of the 95 % interval of the mean, by Student's t; NaN for fewer than two values."""
    if len(accuracies) < 2:
        return nan
    from scipy.stats import t  # half a second that single runs need not wait for

    return float(t.ppf(0.975, len(accuracies) - 1) * accuracies.sem())


def show_results(runs: DataFrame, keys: Sequence[str], folder: Path, recorder: Recorder | None) -> None:
    """Prints the table and what to do next; saves table and pictures in `folder` and in the sweep's run."""
    recipes = recipes_of(runs, keys)
    text = results_table(runs, recipes, keys)
    print(f"\n{text}\n", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    table_txt, table_csv = (folder / name for name in File.TABLES)
    table_txt.write_text(f"{text}\n")
    runs.to_csv(table_csv, columns=[*keys, *CSV], index=False)
    counts = runs.status.value_counts().reindex(STATUSES, fill_value=0)
    pairs = [("runs", ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if count) or "none")]
    # With seeds, the best run of the best recipe: not the luckiest of all.
    ranked = runs.loc[recipes.best].dropna(subset="best_val_accuracy")
    best = None if ranked.empty else ranked.iloc[0]
    from lenetexp.reporting.sweep_figures import draw_sweep  # imports matplotlib, which the table need not wait for

    has_pictures = best is not None and try_draw(lambda: draw_sweep(recipes, keys, folder / File.FIGURES))
    if best is not None:
        test = "" if isna(best.test_accuracy) else f", test {best.test_accuracy:.2%}"
        reached = f"validation {best.best_val_accuracy:.2%}{test}"
        named = swept_name(best[[*keys]].to_dict()).replace(" ", ", ")  # so that it may be folded
        pairs.append(("best run", ": ".join(filter(None, [named, reached]))))
        pairs.append(("predict", f"python scripts/predict.py run={best.run_id}{best.trust}"))
    if has_pictures:
        pairs.append(("pictures", shown(folder / File.FIGURES)))
    looks = how_to_look(recorder.store, recorder.run_id) if recorder else []
    print(rows([*pairs, *looks]), flush=True)
    if recorder is None:
        return
    if best is not None:
        recorder.metrics({"sweep/best_val_accuracy": best.best_val_accuracy})
        recorder.tag(Tag.BEST_RUN, best.run_id)
    # Zeros as well: a resumed sweep may have no failed runs any more.
    recorder.metrics({f"sweep/{status}": float(count) for status, count in counts.items()})
    recorder.tag(Tag.DESCRIPTION, f"```\n{text}\n```")
    recorder.artifacts(table_txt)
    recorder.artifacts(table_csv)
    if has_pictures:
        recorder.artifacts(folder / File.FIGURES, File.FIGURES)


def results_table(runs: DataFrame, recipes: DataFrame, keys: Sequence[str]) -> str:
    """One line a run, or a recipe if some differ only in their seed; below, why runs failed and what no mean counts."""
    means = SEED in keys and len(recipes) < len(runs)
    shown, notes = recipes if means else runs, []
    columns = [key for key in keys if key != SEED or not means]
    settings = {name: shown[key].map(short) for name, key in zip(short_keys(columns), columns, strict=True)}
    if not means:
        explained = runs[runs.reason != ""]
        known = {
            "validation": _texts(runs.best_val_accuracy, "{:.2%}"),
            "epoch": _texts(runs.best_epoch, "{:.0f}"),
            "test": _texts(runs.test_accuracy, "{:.2%}"),
            "seconds": _texts(runs.seconds, "{:.1f}"),
            "status": [f"{run.status} (before)" if run.before else run.status for run in runs.itertuples()],
        }
    else:
        explained = runs[~runs.status.isin(RESULTS)]
        low = _texts((recipes.accuracy - recipes.half_width).clip(lower=0), "{:.2%}")
        high = _texts((recipes.accuracy + recipes.half_width).clip(upper=1), "{:.2%}")
        known = {
            "runs": recipes.runs,
            "validation": _texts(recipes.accuracy, "{:.2%}"),
            "deviation": _texts(recipes.deviation, "{:.2%}"),
            "95 % interval": [" to ".join(filter(None, limits)) for limits in zip(low, high, strict=True)],
            "test": _texts(recipes.test, "{:.2%}"),
            "ended otherwise": recipes.ends,
        }
        if repeats := int(results_of(runs).duplicated([*keys]).sum()):
            notes = [f"{repeats} left out of the means: of runs that differ in nothing, seed included, the best counts"]
    for _, run in explained.iterrows():
        notes.append(f"{swept_name(run[[*keys]].to_dict()) or run.run_id}: {run.reason or run.status}")
    return "\n".join([table({**settings, **known}, spare=("seconds", "epoch", "deviation")), *map(wrapped, notes)])


def _texts(numbers: Series, form: str) -> list[str]:
    return ["" if isna(number) else form.format(number) for number in numbers]
