"""What a set of runs shows, in the terminal, as files and in MLflow: a table, findings, pictures, the best run."""

from collections.abc import Sequence
from pathlib import Path

from pandas import DataFrame, Series, isna

from lenetexp.config.identity import format_swept, shorten_keys, shorten_value
from lenetexp.errors import pluralize, wrap_text
from lenetexp.reporting.run_summary import format_look_command
from lenetexp.reporting.terminal import fit_columns, format_path, format_rows, format_table, try_draw
from lenetexp.sweeps.findings import compute_findings
from lenetexp.sweeps.image_sets import find_best
from lenetexp.sweeps.results import (
    CSV,
    RESULTS,
    SEED,
    STATUSES,
    format_endings,
    group_recipes,
    has_means,
    select_results,
)
from lenetexp.tracking.names import File, Tag
from lenetexp.tracking.recorder import Recorder
from lenetexp.tracking.view import name_view

# Columns of the text: those that may be empty, and those that go first if there is no room.
IF_KNOWN = ("to 90 %", "test interval", "published", "other outcomes", "images")
SPARE = ("test interval", "seconds", "epoch", "deviation", "to 90 %", "95 % interval")


def show_results(
    runs: DataFrame,
    keys: Sequence[str],
    folder: Path,
    recorder: Recorder | None,
    command: Sequence[str] = (),
    more: Sequence[tuple[str, str]] = (),
) -> None:
    """Print the table, the findings and what to do next. Save table and pictures in `folder` and the sweep's run.

    Args:
        runs: The runs, the best first.
        keys: The swept keys.
        folder: Where table and pictures go.
        recorder: The sweep's own run, or None.
        command: The words of the sweep's command line.
        more: Labels and texts below the findings.
    """
    recipes = group_recipes(runs, keys)
    summary = compute_findings(recipes, [key for key in keys if key != SEED], command)
    blocks = [build_results_table(runs, recipes, keys), *summary.blocks, *([format_rows(more)] if more else [])]
    text = "\n\n".join(blocks)
    print(f"\n{text}\n", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    table_txt, table_csv = (folder / name for name in File.TABLES)
    table_txt.write_text(f"{text}\n")
    runs.to_csv(table_csv, columns=[*keys, *CSV], index=False)
    counts = runs.status.value_counts().reindex(STATUSES, fill_value=0)
    endings = sorted(format_endings(runs).value_counts().items())
    pairs = [("runs", ", ".join(f"{count} {ending}" for ending, count in endings) or "none")]
    best = {images: best for images, best in find_best(runs, recipes).items() if best is not None}
    from lenetexp.reporting.sweep_figures import draw_sweep  # imports matplotlib, which the table need not wait for

    has_pictures = bool(best) and try_draw(lambda: draw_sweep(recipes, keys, folder / File.FIGURES))
    means = has_means(runs, recipes, keys)
    for images, run in best.items():
        recipe = recipes[recipes.best == run.name].iloc[0] if means else None
        label, words = _describe_best(run, recipe, keys, summary.places.get(images, ""))
        pairs.append((label, f"on {images}: {words}" if images else words))
        pairs.append(("predict", f"python scripts/predict.py run={run.run_id}{run.trust}"))
    if has_pictures:
        pairs.append(("pictures", format_path(folder / File.FIGURES)))
    looks = format_look_command(recorder.store, name_view(recorder.run_id)) if recorder else []
    print(format_rows([*pairs, *looks]), flush=True)
    if recorder is None:
        return
    if len(best) == 1:  # of several datasets none is the best
        (run,) = best.values()
        recorder.log_metrics({"sweep/best_val_accuracy": run.best_val_accuracy})
        recorder.set_tag(Tag.BEST_RUN, run.run_id)
    # Zeros as well: a resumed sweep may have no failed runs any more.
    recorder.log_metrics({f"sweep/{status}": float(count) for status, count in counts.items()})
    recorder.set_tag(Tag.DESCRIPTION, f"```\n{text}\n```")
    recorder.log_artifacts(table_txt)
    recorder.log_artifacts(table_csv)
    if has_pictures:
        recorder.log_artifacts(folder / File.FIGURES, File.FIGURES)


def _describe_best(best: Series, recipe: Series | None, keys: Sequence[str], place: str) -> tuple[str, str]:
    """Describe the best run; where there are means, the best recipe, because its best run is also the luckiest."""
    settings = format_swept(best[[key for key in keys if key != SEED or recipe is None]].to_dict())
    label, mean, accuracy, test = "best run", "", best.best_val_accuracy, best.test_accuracy
    if recipe is not None:
        label, mean, accuracy, test = "best settings", "mean ", recipe.accuracy, recipe.test
    result = f"{mean}validation {accuracy:.2%}" + ("" if isna(test) else f", test {test:.2%}")
    text = ": ".join(filter(None, [settings.replace(" ", ", "), result]))  # may be folded at its commas
    return label, "; ".join(filter(None, [text, place]))


def build_results_table(runs: DataFrame, recipes: DataFrame, keys: Sequence[str]) -> str:
    """Build a table with one line per run, or per recipe if some differ only in their seed.

    Below it stands why runs failed and what no mean counts.
    """
    means = has_means(runs, recipes, keys)
    is_started = runs.status != "not run"
    explained = runs[~(runs.status.isin(RESULTS) if means else is_started & (runs.reason == ""))]
    runs = runs[is_started]
    table, notes = recipes if means else runs, []
    columns = [key for key in keys if key != SEED or not means]
    settings = {name: table[key].map(shorten_value) for name, key in zip(shorten_keys(columns), columns, strict=True)}
    if not means:
        has_values = {
            "validation": _format_numbers(runs.best_val_accuracy, "{:.2%}"),
            "epoch": _format_numbers(runs.best_epoch, "{:.0f}"),
            "test": _format_numbers(runs.test_accuracy, "{:.2%}"),
            "test interval": _format_intervals(runs.test_low, runs.test_high),
            "to 90 %": _format_numbers(runs.epochs_to_90, "{:.0f}"),
            "published": _format_numbers(runs.published, "{:.2%}"),
            "seconds": _format_numbers(runs.seconds, "{:.1f}"),
            "status": format_endings(runs).where(~runs.before.astype(bool), format_endings(runs) + " (before)"),
        }
    else:
        low = (recipes.accuracy - recipes.half_width).clip(lower=0)
        high = (recipes.accuracy + recipes.half_width).clip(upper=1)
        has_values = {
            "runs": recipes.runs,
            "validation": _format_numbers(recipes.accuracy, "{:.2%}"),
            "deviation": _format_numbers(recipes.deviation, "{:.2%}"),
            "95 % interval": _format_intervals(low, high),
            "test": _format_numbers(recipes.test, "{:.2%}"),
            "test interval": _format_intervals(recipes.test_low, recipes.test_high),
            "published": _format_numbers(recipes.published, "{:.2%}"),
            "to 90 %": _format_numbers(recipes.to_90, "{:g}"),
            "other outcomes": recipes.ends,
        }
        if repeats := int(select_results(runs).duplicated([*keys, "images"]).sum()):
            repeated = "1 run repeats" if repeats == 1 else f"{repeats} runs repeat"
            notes = [f"{repeated} another with the same settings and seed: of each, only the best counts in the mean"]
    for _, run in explained[explained.reason != ""].iterrows():
        notes.append(f"{format_swept(run[[*keys]].to_dict()) or run.run_id}: {run.reason}")
    others = format_endings(explained[explained.reason == ""]).value_counts()
    notes += filter(None, [", ".join(f"{pluralize(count, 'run')} {word}" for word, count in others.items())])
    if table.groupby([*columns] or (lambda _: 0), dropna=False).images.nunique().gt(1).any():
        has_values["images"] = table.images  # the settings alone do not tell them apart
    filled = {name: texts for name, texts in has_values.items() if name not in IF_KNOWN or any(texts)}
    # The first to go are those in which most lines agree.
    alike = sorted(settings, key=lambda name: -settings[name].value_counts().max())
    fitting = fit_columns({**settings, **filled}, [*SPARE, *alike[:-1]])
    if missing := [name for name in settings if name not in fitting]:
        notes.insert(0, f"without {', '.join(missing)}, which differ too: see {File.TABLES[1]}")
    lines, images = format_table(fitting).splitlines(), [*table.images]
    for i in reversed(range(1, len(images))):
        if images[i] != images[i - 1]:
            lines.insert(i + 1, "")  # below the names of the columns
    return "\n".join([*lines, *map(wrap_text, notes)])


def _format_numbers(numbers: Series, form: str) -> list[str]:
    return ["" if isna(number) else form.format(number) for number in numbers]


def _format_intervals(low: Series, high: Series) -> list[str]:
    return [
        " to ".join(filter(None, ends))
        for ends in zip(_format_numbers(low, "{:.2%}"), _format_numbers(high, "{:.2%}"), strict=True)
    ]
