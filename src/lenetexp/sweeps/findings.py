"""What the numbers of a set of runs support, in words: which settings differ, which are tied, how many seeds it takes.

A line of a table is a recipe: the runs that differ only in their seed, as `results.group_recipes` groups them.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from math import comb

import numpy as np
import pandas as pd
from pandas import DataFrame

from lenetexp.config.identity import format_swept
from lenetexp.errors import UserError, pluralize, wrap_text
from lenetexp.reporting.terminal import format_rows
from lenetexp.sweeps import significance as statistics
from lenetexp.sweeps.image_sets import group_by_images
from lenetexp.sweeps.significance import ALPHA, FEWEST_SEEDS, estimate_seeds
from lenetexp.tracking.names import File
from lenetexp.tracking.query import RecordedRun

NAMED = 4  # settings that are named; the rest is counted


@dataclass(frozen=True)
class Comparison:
    """The comparison of the recipes on one set of images: labels with texts, and the place of the best."""

    images: str = ""  # the name of the set; empty if all recipes share one
    lines: list[tuple[str, str]] = field(default_factory=list)
    place: str = ""


@dataclass(frozen=True)
class Findings:
    """The comparison on each set of images that has two recipes, and the number of seeds that it takes."""

    comparisons: list[Comparison] = field(default_factory=list)
    seeds: str = ""  # how many are needed; empty if there are enough
    command: str = ""  # that adds them
    sets: int = 1  # of images

    @property
    def places(self) -> dict[str, str]:
        """How the best recipe on each set of images is placed."""
        return {one.images: one.place for one in self.comparisons}

    @property
    def note(self) -> str:
        """What a reader must know about several sets of images."""
        if self.sets < 2:
            return ""
        return f"The runs are validated on {self.sets} sets of images; accuracies are compared only within one."

    @property
    def blocks(self) -> list[str]:
        """The text below a table, in blocks."""
        seeds = [("seeds needed", self.seeds), *([("", self.command)] if self.command else [])] if self.seeds else []
        if not self.note:
            lines = [line for one in self.comparisons for line in one.lines] + seeds
            return [format_rows(lines)] if lines else []
        blocks = [f"on {one.images}:\n{format_rows(one.lines)}" for one in self.comparisons if one.lines]
        return [wrap_text(self.note), *blocks, *([format_rows(seeds)] if seeds else [])]

    @property
    def sentences(self) -> list[tuple[str, str]]:
        """The same as sentences, each with the command that follows it, or ""."""
        lines = [
            (f"{f'on {one.images}, ' if one.images else ''}{label}: {text}", "")
            for one in self.comparisons
            for label, text in one.lines
        ]
        seeds = [(f"seeds needed: {self.seeds}", self.command)] if self.seeds else []
        return [*([(self.note, "")] if self.note else []), *lines, *seeds]


def compute_findings(recipes: DataFrame, keys: Sequence[str], command: Sequence[str]) -> Findings:
    """Compare the best recipe on each set of images with every other recipe on it.

    Args:
        recipes: The recipes, the best first.
        keys: The keys in which they differ.
        command: The words of the command line that ran them; empty if it cannot add seeds.
    """
    sets = [*group_by_images(recipes)]
    comparisons: list[Comparison] = []
    missing: dict[tuple[int, int], list[str]] = {}  # settings and seeds, and the names of the seeds
    for images, lines in sets:
        compared = lines.dropna(subset="accuracy")
        if len(compared) < 2:
            continue
        seeds = list(dict.fromkeys(seed for by_seed in compared.by_seed for seed in by_seed))
        table = DataFrame([*compared.by_seed], columns=seeds).to_numpy(dtype=float)
        shared = int((~np.isnan(table[1:]) & ~np.isnan(table[0])).sum(axis=1).max())
        comparisons.append(_compare(images, compared, keys, table, shared))
        missing.setdefault((len(compared), max(shared, 1)), seeds)
    if not missing:
        return Findings(sets=len(sets))
    settings, have = max(missing, key=lambda pair: estimate_seeds(pair[0]) - pair[1])
    more = _suggest_seeds(settings, have, missing[settings, have], command)
    return Findings(comparisons, *more, len(sets))


def _compare(
    images: str, compared: DataFrame, keys: Sequence[str], table: statistics.Numbers, shared: int
) -> Comparison:
    """Compare the recipes on one set of images, of which `table` has the accuracies by seed."""
    varying = [key for key in keys if compared[key].nunique(dropna=False) > 1]
    names = [format_swept(values) for values in compared[varying].to_dict("records")]
    if shared >= FEWEST_SEEDS:
        return _compare_by_seeds(images, names, table, shared)
    if shared > 1:
        few = f"{shared} are too few to show a difference, however large: an exact two-sided test of paired seeds"
        line = ("seeds", f"{few} needs {FEWEST_SEEDS} to reach p < {ALPHA}")
        return Comparison(images, [line], "too few seeds to tell it from the others")
    return _compare_by_images(images, names, compared)


def _compare_by_seeds(images: str, names: Sequence[str], table: statistics.Numbers, shared: int) -> Comparison:
    tied: list[str] = []
    worse: list[str] = []
    few: list[str] = []
    for name, other in zip(names[1:], statistics.compute_gaps_to_best(table), strict=True):
        # Without a comma, at which the text may be folded.
        text = f"{name} by {100 * other.mean:.2f} ± {100 * other.half_width:.2f} points ({_format_p(other.p)})"
        if other.seeds < FEWEST_SEEDS:
            few.append(name)
        else:
            (worse if other.is_real else tied).append(text)
    pairs = pluralize(comb(len(names), 2), "comparison")
    method = f"sign-flip test on {shared} paired seeds, corrected for {pairs}; ± is the 95 % interval"
    return _describe_place(images, names[0], tied, worse, few, method)


def _compare_by_images(images: str, names: Sequence[str], compared: DataFrame) -> Comparison:
    has_images = compared.val_images
    if has_images.isna().any():
        return Comparison(images)
    counts = [(round(accuracy * of), int(of)) for accuracy, of in zip(compared.accuracy, has_images, strict=True)]
    p_values = {other: statistics.compare_accuracies(*counts[0], *other) for other in {*counts[1:]}}
    pairs = comb(len(names), 2)
    corrected = statistics.correct_by_holm([p_values[other] for other in counts[1:]], among=pairs)
    tied: list[str] = []
    worse: list[str] = []
    for name, accuracy, p in zip(names[1:], compared.accuracy.iloc[1:], corrected, strict=True):
        text = f"{name} by {100 * (compared.accuracy.iloc[0] - accuracy):.2f} points ({_format_p(p)})"
        (worse if p <= ALPHA else tied).append(text)
    of = f"{int(has_images.iloc[0]):,} " if has_images.nunique() == 1 else ""
    method = f"Fisher's exact test on {of}validation images, corrected for {pluralize(pairs, 'comparison')}"
    return _describe_place(images, names[0], tied, worse, [], f"{method}; one seed cannot show how much seeds vary")


def _describe_place(
    images: str, best: str, tied: list[str], worse: list[str], few: list[str], method: str
) -> Comparison:
    place = (
        f"tied with {pluralize(len(tied), 'other')}" if tied else "" if few else "significantly better than the rest"
    )
    lines = [("best", best), ("tied with the best", _join_names(tied)), ("significantly worse", _join_names(worse))]
    lines += [("too few seeds", _join_names(few))] if few else []
    return Comparison(images, [*lines, ("method", method)], place)


def _join_names(text: list[str]) -> str:
    more = len(text) - NAMED
    return ", ".join([*text[:NAMED], *([f"and {more} more"] if more > 0 else [])]) or "none"


def _format_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _suggest_seeds(settings: int, have: int, seeds_in_use: Sequence[str], command: Sequence[str]) -> tuple[str, str]:
    """Return how many seeds are missing, and the command that adds them; both "" if none are."""
    needed = estimate_seeds(settings)
    if have >= needed:
        return "", ""
    number = f"{needed} for {settings} settings ({needed - have} more)"
    more = f"{number}, to detect a difference of three standard deviations"
    if not command:
        which, seeds = ("them", needed) if settings <= NAMED else ("the best few", estimate_seeds(NAMED))
        return f"{more}; sweep {which} with 'seed=range({seeds})'", ""
    return f"{more}; finished runs are not run again:", add_seeds(command, seeds_in_use, needed)


def add_seeds(command: Sequence[str], seeds_in_use: Sequence[str], needed: int) -> str:
    """Return the command line that runs a sweep with `needed` seeds, those that it has among them."""
    have = [int(seed) for seed in seeds_in_use if seed.isdigit()]
    new = (seed for seed in count(min(have, default=0)) if seed not in have)
    seeds = sorted([*have, *islice(new, max(0, needed - len(have)))])
    first, last = seeds[0], seeds[-1]
    values = ",".join(map(str, seeds))
    if len(seeds) == last - first + 1:
        values = f"range({first},{last + 1})" if first else f"range({last + 1})"
    words = [word for word in command if not word.startswith(("seed=", "resume="))]
    return shlex.join(["python", *words, f"seed={values}", "resume=true"])


def compare_two_runs(runs: Sequence[RecordedRun], names: Sequence[str]) -> list[tuple[str, str]]:
    """Compare two runs on the test images: on how many they differ, and whether that is chance.

    Returns nothing unless both have predictions for the same images.
    """
    first, second = map(_read_predictions, runs)
    if first is None or second is None or not runs[0].digest:
        return []
    if runs[0].digest != runs[1].digest or not first.label.equals(second.label):
        return []
    right, right_too = first.predicted == first.label, second.predicted == second.label
    only_first, only_second = int((right & ~right_too).sum()), int((~right & right_too).sum())
    p = statistics.compute_mcnemar_p(only_first, only_second)
    differ = f"the two differ on {int((first.predicted != second.predicted).sum()):,} of {len(first):,}"
    right_on = f"only {names[0]} is right on {only_first:,}, only {names[1]} on {only_second:,}"
    meaning = "more than chance, for these two nets" if p <= ALPHA else "which may be chance"
    return [("test images", f"{differ}; {right_on}: McNemar's exact {_format_p(p)}, {meaning}")]


def _read_predictions(run: RecordedRun) -> DataFrame | None:
    """Read a run's predictions for the test images, one per line. Return None for older runs, which have none."""
    try:
        with run.open_files(File.PREDICTIONS) as folder:
            table = pd.read_csv(folder / File.PREDICTIONS, usecols=["image", "label", "predicted"], dtype=int)
            return table.sort_values("image", ignore_index=True)
    except (UserError, OSError, ValueError):
        return None
