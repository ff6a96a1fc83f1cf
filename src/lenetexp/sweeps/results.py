"""What a set of runs shows: a table, pictures, the best run. Read from MLflow, so at any time."""

import json
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

from pandas import DataFrame, Series, isna

from lenetexp.config.identity import short, short_keys, swept_name, trust_needed
from lenetexp.errors import UserError, counted, one_line, wrapped
from lenetexp.reporting.run_summary import how_to_look
from lenetexp.reporting.terminal import fit_columns, rows, shown, table, try_draw
from lenetexp.sweeps.findings import findings
from lenetexp.sweeps.images import best_of, complete, images_of, name_images, sort_by_images
from lenetexp.sweeps.statistics import epochs_to, half_width, wilson
from lenetexp.tracking.names import BEST_ACCURACY, BEST_EPOCH, BEST_LOSS, TEST_ACCURACY, File, Tag
from lenetexp.tracking.query import RecordedRun, children, get_run
from lenetexp.tracking.recorder import Recorder
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
# Columns of the text: those that may be empty, and those that go first if there is no room.
IF_KNOWN = ("to 90 %", "test interval", "published", "other outcomes", "images")
SPARE = ("test interval", "seconds", "epoch", "deviation", "to 90 %", "95 % interval")


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
    tags, metrics, images = run.tags, run.metrics, run.images
    test_accuracy, test_images = metrics.get(TEST_ACCURACY, nan), images.get("test", nan)
    test_low, test_high = wilson(test_accuracy, test_images)
    finished = run.status == "FINISHED"
    status = run.ending or "finished" if finished else run.status.lower()
    # A finished run's reason is of an earlier command that did not get so far.
    known = ("" if status == "finished" else tags.get(Tag.REASON, "")) or tags.get(Tag.UNSENT, "")
    return {
        "best_val_accuracy": metrics.get(BEST_ACCURACY, nan),
        "best_val_loss": metrics.get(BEST_LOSS, nan),
        "best_epoch": metrics.get(BEST_EPOCH, nan),
        "test_accuracy": test_accuracy,
        "test_low": test_low,
        "test_high": test_high,
        "seconds": run.seconds,
        "status": status,
        "reason": known or ("" if finished else reason),
        "run_id": run.run_id,
        "curve": [(metric.step, metric.value) for metric in run.history("val/accuracy")],
        "trust": trust_needed([run.params.get(f"{key}._target_", "") for key in ("model", "dataset")]),
        "before": sweep is not None and tags.get(Tag.PARENT) != sweep,  # run by an earlier command
        "of_seed": run.params.get(SEED, ""),
        "val_images": images.get("val", nan),
        "test_images": test_images,
        "published": _number(run.params.get("published")),
        "folder": shown(run.folder) if run.folder else run.tags.get(Tag.FOLDER, ""),
        "images": images_of(run),
    }


def _number(text: str | None) -> float:
    """NaN for what is none: older runs lack the param, and MLflow keeps null as a word."""
    try:
        return float(text or nan)
    except ValueError:
        return nan


def best_first(rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> DataFrame:
    """Runs as a table of the swept keys and `COLUMNS`: the images in the order of `rows`, on each the best run first.

    The order is that by which predict.py's run=best is chosen.
    """
    runs = DataFrame(rows, columns=[*keys, *COLUMNS])
    runs["images"] = complete(name_images(runs.images), runs, keys)
    # One mark for all: a run that learns little would be quick to reach 90 % of its own best.
    marks = 0.9 * runs.groupby("images").best_val_accuracy.transform("max")
    pairs = zip(runs.curve, marks, strict=True)
    runs["epochs_to_90"] = [epochs_to(curve, mark) if isinstance(curve, list) else nan for curve, mark in pairs]
    return sort_by_images(runs, "best_val_accuracy", "best_val_loss")


def recipes_of(runs: DataFrame, keys: Sequence[str]) -> DataFrame:
    """Runs that differ only in their seed as one line of the other keys and `RECIPE` each, in the order of `runs`.

    On each set of images the best mean comes first.
    """
    others = [key for key in keys if key != SEED]
    recipes = []
    for _, group in runs.groupby([*others, "images"], sort=False, dropna=False):
        counting = results_of(group)
        if SEED in keys:
            counting = counting.drop_duplicates(SEED)  # the best comes first
        accuracies, test = counting.best_val_accuracy, counting.test_accuracy.mean()
        test_low, test_high = wilson(test, counting.test_images.min())  # several nets, but no more images than one has
        ends = words_of(group)[group.status != "finished"].value_counts(sort=False)
        recipe = {
            "accuracy": accuracies.mean(),
            "val_loss": counting.best_val_loss.mean(),  # decides between equal accuracies
            "deviation": accuracies.std(),  # n - 1
            "half_width": half_width(accuracies),
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


def words_of(runs: DataFrame) -> Series:
    """How each run ended, as a reader knows it: what a signal ended was interrupted, what died was killed."""
    words = runs.status.replace("not run", "not started")
    return words.mask((runs.status == "killed") & (runs.reason == ""), "interrupted")


def results_of(runs: DataFrame) -> DataFrame:
    """The runs whose accuracy counts in a mean."""
    return runs[runs.status.isin(RESULTS)].dropna(subset="best_val_accuracy")


def show_results(
    runs: DataFrame,
    keys: Sequence[str],
    folder: Path,
    recorder: Recorder | None,
    command: Sequence[str] = (),
    more: Sequence[tuple[str, str]] = (),
) -> None:
    """Prints the table, what it shows and what to do next; saves table and pictures in `folder` and the sweep's run.

    `command` holds the words of the sweep's command line, `more` is told beside what the table shows.
    """
    recipes = recipes_of(runs, keys)
    summary = findings(recipes, [key for key in keys if key != SEED], command)
    blocks = [results_table(runs, recipes, keys), *summary.blocks, *([rows(more)] if more else [])]
    text = "\n\n".join(blocks)
    print(f"\n{text}\n", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    table_txt, table_csv = (folder / name for name in File.TABLES)
    table_txt.write_text(f"{text}\n")
    runs.to_csv(table_csv, columns=[*keys, *CSV], index=False)
    counts = runs.status.value_counts().reindex(STATUSES, fill_value=0)
    words = sorted(words_of(runs).value_counts().items())
    pairs = [("runs", ", ".join(f"{count} {word}" for word, count in words) or "none")]
    best = {images: best for images, best in best_of(runs, recipes).items() if best is not None}
    from lenetexp.reporting.sweep_figures import draw_sweep  # imports matplotlib, which the table need not wait for

    has_pictures = bool(best) and try_draw(lambda: draw_sweep(recipes, keys, folder / File.FIGURES))
    means = has_means(runs, recipes, keys)
    for images, run in best.items():
        recipe = recipes[recipes.best == run.name].iloc[0] if means else None
        label, text = _best(run, recipe, keys, summary.places.get(images, ""))
        pairs.append((label, f"on {images}: {text}" if images else text))
        pairs.append(("predict", f"python scripts/predict.py run={run.run_id}{run.trust}"))
    if has_pictures:
        pairs.append(("pictures", shown(folder / File.FIGURES)))
    looks = how_to_look(recorder.store, recorder.run_id) if recorder else []
    print(rows([*pairs, *looks]), flush=True)
    if recorder is None:
        return
    if len(best) == 1:  # of several datasets none is the best
        (run,) = best.values()
        recorder.metrics({"sweep/best_val_accuracy": run.best_val_accuracy})
        recorder.tag(Tag.BEST_RUN, run.run_id)
    # Zeros as well: a resumed sweep may have no failed runs any more.
    recorder.metrics({f"sweep/{status}": float(count) for status, count in counts.items()})
    recorder.tag(Tag.DESCRIPTION, f"```\n{text}\n```")
    recorder.artifacts(table_txt)
    recorder.artifacts(table_csv)
    if has_pictures:
        recorder.artifacts(folder / File.FIGURES, File.FIGURES)


def has_means(runs: DataFrame, recipes: DataFrame, keys: Sequence[str]) -> bool:
    """Whether some runs differ only in their seed."""
    return SEED in keys and len(recipes) < len(runs)


def _best(best: Series, recipe: Series | None, keys: Sequence[str], place: str) -> tuple[str, str]:
    """The best run; where there are means the best recipe, because its best run is also the one with the best luck."""
    named = swept_name(best[[key for key in keys if key != SEED or recipe is None]].to_dict())
    label, mean, accuracy, test = "best run", "", best.best_val_accuracy, best.test_accuracy
    if recipe is not None:
        label, mean, accuracy, test = "best settings", "mean ", recipe.accuracy, recipe.test
    reached = f"{mean}validation {accuracy:.2%}" + ("" if isna(test) else f", test {test:.2%}")
    said = ": ".join(filter(None, [named.replace(" ", ", "), reached]))  # may be folded at its commas
    return label, "; ".join(filter(None, [said, place]))


def results_table(runs: DataFrame, recipes: DataFrame, keys: Sequence[str]) -> str:
    """One line a run, or a recipe if some differ only in their seed; below, why runs failed and what no mean counts."""
    means = has_means(runs, recipes, keys)
    is_started = runs.status != "not run"
    explained = runs[~(runs.status.isin(RESULTS) if means else is_started & (runs.reason == ""))]
    runs = runs[is_started]
    shown, notes = recipes if means else runs, []
    columns = [key for key in keys if key != SEED or not means]
    settings = {name: shown[key].map(short) for name, key in zip(short_keys(columns), columns, strict=True)}
    if not means:
        known = {
            "validation": _texts(runs.best_val_accuracy, "{:.2%}"),
            "epoch": _texts(runs.best_epoch, "{:.0f}"),
            "test": _texts(runs.test_accuracy, "{:.2%}"),
            "test interval": _intervals(runs.test_low, runs.test_high),
            "to 90 %": _texts(runs.epochs_to_90, "{:.0f}"),
            "published": _texts(runs.published, "{:.2%}"),
            "seconds": _texts(runs.seconds, "{:.1f}"),
            "status": words_of(runs).where(~runs.before.astype(bool), words_of(runs) + " (before)"),
        }
    else:
        low = (recipes.accuracy - recipes.half_width).clip(lower=0)
        high = (recipes.accuracy + recipes.half_width).clip(upper=1)
        known = {
            "runs": recipes.runs,
            "validation": _texts(recipes.accuracy, "{:.2%}"),
            "deviation": _texts(recipes.deviation, "{:.2%}"),
            "95 % interval": _intervals(low, high),
            "test": _texts(recipes.test, "{:.2%}"),
            "test interval": _intervals(recipes.test_low, recipes.test_high),
            "published": _texts(recipes.published, "{:.2%}"),
            "to 90 %": _texts(recipes.to_90, "{:g}"),
            "other outcomes": recipes.ends,
        }
        if repeats := int(results_of(runs).duplicated([*keys, "images"]).sum()):
            repeated = "1 run repeats" if repeats == 1 else f"{repeats} runs repeat"
            notes = [f"{repeated} another with the same settings and seed: of each, only the best counts in the mean"]
    for _, run in explained[explained.reason != ""].iterrows():
        notes.append(f"{swept_name(run[[*keys]].to_dict()) or run.run_id}: {run.reason}")
    others = words_of(explained[explained.reason == ""]).value_counts()
    notes += filter(None, [", ".join(f"{counted(count, 'run')} {word}" for word, count in others.items())])
    if shown.groupby([*columns] or (lambda _: 0), dropna=False).images.nunique().gt(1).any():
        known["images"] = shown.images  # the settings alone do not tell them apart
    filled = {name: texts for name, texts in known.items() if name not in IF_KNOWN or any(texts)}
    # The first to go are those in which most lines agree.
    alike = sorted(settings, key=lambda name: -settings[name].value_counts().max())
    fitting = fit_columns({**settings, **filled}, [*SPARE, *alike[:-1]])
    if missing := [name for name in settings if name not in fitting]:
        notes.insert(0, f"without {', '.join(missing)}, which differ too: see {File.TABLES[1]}")
    lines, images = table(fitting).splitlines(), [*shown.images]
    for i in reversed(range(1, len(images))):
        if images[i] != images[i - 1]:
            lines.insert(i + 1, "")  # below the names of the columns
    return "\n".join([*lines, *map(wrapped, notes)])


def _texts(numbers: Series, form: str) -> list[str]:
    return ["" if isna(number) else form.format(number) for number in numbers]


def _intervals(low: Series, high: Series) -> list[str]:
    return [" to ".join(filter(None, ends)) for ends in zip(_texts(low, "{:.2%}"), _texts(high, "{:.2%}"), strict=True)]
