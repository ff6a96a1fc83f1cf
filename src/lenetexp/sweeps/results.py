"""What became of a set of runs: a row for each run, and for each recipe. Read from MLflow, so at any time."""

import json
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import Any

from pandas import DataFrame, Series

from lenetexp.config.identity import format_trust
from lenetexp.errors import UserError, format_error
from lenetexp.reporting.terminal import format_path
from lenetexp.sweeps.image_sets import fill_in_images, identify_images, name_images, sort_by_images
from lenetexp.sweeps.significance import compute_half_width, compute_wilson_interval, count_epochs_to
from lenetexp.tracking.names import BEST_ACCURACY, BEST_EPOCH, BEST_LOSS, TEST_ACCURACY, File, Tag
from lenetexp.tracking.query import RecordedRun, get_run, list_children
from lenetexp.tracking.store import Store

SEED = "seed"
# What can become of a run. Whatever was trained to an end is a result; failed and killed runs are not.
RESULTS = ("finished", "did not learn", "at chance", "collapsed", "diverged", "pruned")
STATUSES = (*RESULTS, "failed", "killed", "not run")
# What is known of each run: the columns of table.csv after the swept keys, and others.
CSV = (
    "best_val_accuracy", "best_epoch", "epochs_to_90", "test_accuracy", "test_low", "test_high", "seconds", "status",
    "reason", "run_id", "folder", "images",
)  # fmt: skip
COLUMNS = (
    *CSV, "best_val_loss", "curve", "trust", "before", "config_hash", "of_seed", "val_images", "test_images",
    "published",
)  # fmt: skip
# What is known of each recipe: the runs that differ only in their seed. Accuracy, val_loss and test are means,
# to_90 is a median; the half width is that of a 95 % interval; a curve is pairs of epoch and validation accuracy.
RECIPE = (
    "accuracy", "val_loss", "deviation", "half_width", "test", "test_low", "test_high", "to_90", "runs", "ends",
    "diverged", "curves", "best", "by_seed", "val_images", "published", "images",
)  # fmt: skip


def load_runs(store: Store, sweep: RecordedRun) -> DataFrame:
    """Load what became of every run of a sweep, the best first."""
    index = read_index(sweep)
    # Of a job that was given again, the finished run counts, else the newest.
    mine = sorted(list_children(store, sweep.run_id), key=lambda run: (run.status == "FINISHED", run.started))
    by_hash = {run.config_hash: run for run in mine}
    rows = []
    for config_hash, entry in index["jobs"].items():
        run = get_run(store, entry["run_id"]) if entry["run_id"] else by_hash.get(config_hash)
        swept = {key: entry["swept"].get(key, "") for key in index["keys"]}
        rows.append({**swept, **build_row(run, entry["reason"], sweep.run_id), "config_hash": config_hash})
    return sort_best_first(rows, index["keys"])


def read_index(sweep: RecordedRun) -> dict[str, Any]:
    """Read a sweep's keys, and its jobs by their config's hash.

    Raises:
        UserError: They are missing or damaged.
    """
    try:
        with sweep.open_files(File.SWEEP) as folder:
            index: dict[str, Any] = json.loads((folder / File.SWEEP).read_text())
        for entry in index["jobs"].values():
            entry["swept"].items(), entry["run_id"], entry["reason"]
        list(index["keys"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"sweep={sweep.run_id}: its {File.SWEEP} is damaged ({format_error(error)[:80]})") from None
    return index


def build_row(run: RecordedRun | None, reason: str = "", sweep: str | None = None) -> dict[str, Any]:
    """Build the row of a run of the store, or of a sweep's job that never became one, as `COLUMNS`.

    Args:
        run: The run, or None.
        reason: Why its job failed.
        sweep: The sweep that it belongs to, or None.
    """
    if run is None:
        return {"status": "failed" if reason else "not run", "reason": reason, "before": False}
    tags, metrics, images = run.tags, run.metrics, run.images
    test_accuracy, test_images = metrics.get(TEST_ACCURACY, nan), images.get("test", nan)
    test_low, test_high = compute_wilson_interval(test_accuracy, test_images)
    finished = run.status == "FINISHED"
    status = run.ending or "finished" if finished else run.status.lower()
    # A finished run's reason is of an earlier command that did not get so far.
    facts = ("" if status == "finished" else tags.get(Tag.REASON, "")) or tags.get(Tag.UNSENT, "")
    return {
        "best_val_accuracy": metrics.get(BEST_ACCURACY, nan),
        "best_val_loss": metrics.get(BEST_LOSS, nan),
        "best_epoch": metrics.get(BEST_EPOCH, nan),
        "test_accuracy": test_accuracy,
        "test_low": test_low,
        "test_high": test_high,
        "seconds": run.seconds,
        "status": status,
        "reason": facts or ("" if finished else reason),
        "run_id": run.run_id,
        "curve": [(metric.step, metric.value) for metric in run.get_history("val/accuracy")],
        "trust": format_trust([run.params.get(f"{key}._target_", "") for key in ("model", "dataset")]),
        "before": sweep is not None and tags.get(Tag.PARENT) != sweep,  # run by an earlier command
        "of_seed": run.params.get(SEED, ""),
        "val_images": images.get("val", nan),
        "test_images": test_images,
        "published": _parse_number(run.params.get("published")),
        "folder": format_path(run.folder) if run.folder else run.tags.get(Tag.FOLDER, ""),
        "images": identify_images(run),
    }


def _parse_number(text: str | None) -> float:
    """Parse a number. Return NaN for anything else: older runs lack the param, and MLflow keeps null as a word."""
    try:
        return float(text or nan)
    except ValueError:
        return nan


def sort_best_first(rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> DataFrame:
    """Sort rows into a table of the swept keys and `COLUMNS`, on each set of images the best run first.

    The sets of images are in the order of `rows`. The order of runs is that by which run=best is chosen.
    """
    runs = DataFrame(rows, columns=[*keys, *COLUMNS])
    runs["images"] = fill_in_images(name_images(runs.images), runs, keys)
    # One mark for all: a run that learns little would be quick to reach 90 % of its own best.
    marks = 0.9 * runs.groupby("images").best_val_accuracy.transform("max")
    pairs = zip(runs.curve, marks, strict=True)
    runs["epochs_to_90"] = [count_epochs_to(curve, mark) if isinstance(curve, list) else nan for curve, mark in pairs]
    return sort_by_images(runs, "best_val_accuracy", "best_val_loss")


def group_recipes(runs: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Group runs that differ only in their seed into one line of the other keys and `RECIPE` each.

    Lines are in the order of `runs`, but on each set of images the best mean comes first.
    """
    others = [key for key in keys if key != SEED]
    recipes = []
    for _, group in runs.groupby([*others, "images"], sort=False, dropna=False):
        counting = select_results(group)
        if SEED in keys:
            counting = counting.drop_duplicates(SEED)  # the best comes first
        accuracies, test = counting.best_val_accuracy, counting.test_accuracy.mean()
        test_low, test_high = compute_wilson_interval(
            test, counting.test_images.min()
        )  # several nets, but no more images than one has
        ends = format_endings(group)[group.status != "finished"].value_counts(sort=False)
        recipe = {
            "accuracy": accuracies.mean(),
            "val_loss": counting.best_val_loss.mean(),  # decides between equal accuracies
            "deviation": accuracies.std(),  # n - 1
            "half_width": compute_half_width(accuracies),
            "test": test,
            "test_low": test_low,
            "test_high": test_high,
            "to_90": counting.epochs_to_90.median(),
            "runs": f"{len(accuracies)} of {len(group)}",
            "ends": ", ".join(f"{count} {status}" for status, count in ends.items()),
            "diverged": "diverged" in ends,
            "curves": [*filter(None, group.curve.dropna())],
            "best": group.index[0],  # among the runs
            "by_seed": dict(zip(counting[SEED if SEED in keys else "of_seed"], accuracies, strict=True)),
            "val_images": counting.val_images.min(),
            "published": group.published.iloc[0],
            "images": group.images.iloc[0],
        }
        recipes.append({**group[others].iloc[0], **recipe})
    return sort_by_images(DataFrame(recipes, columns=[*others, *RECIPE]), "accuracy", "val_loss")


def format_endings(runs: DataFrame) -> Series:
    """Return how each run ended, as a reader knows it: a signal interrupts a run, a dead process is killed."""
    words = runs.status.replace("not run", "not started")
    return words.mask((runs.status == "killed") & (runs.reason == ""), "interrupted")


def select_results(runs: DataFrame) -> DataFrame:
    """Select the runs whose accuracy counts in a mean."""
    return runs[runs.status.isin(RESULTS)].dropna(subset="best_val_accuracy")


def has_means(runs: DataFrame, recipes: DataFrame, keys: Sequence[str]) -> bool:
    """Return whether some runs differ only in their seed."""
    return SEED in keys and len(recipes) < len(runs)
