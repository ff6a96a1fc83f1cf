"""What the numbers of a set of runs support, in words: which settings differ, which are tied, how many seeds it takes.

A setting's line in a table is a recipe: the runs that differ only in their seed, as `results.recipes_of` has them.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from math import comb

import numpy as np
import pandas as pd
from pandas import DataFrame

from lenetexp.config.identity import swept_name
from lenetexp.errors import UserError, counted
from lenetexp.sweeps import statistics
from lenetexp.sweeps.statistics import ALPHA, FEWEST_SEEDS, seeds_needed
from lenetexp.tracking.names import File
from lenetexp.tracking.query import RecordedRun

NAMED = 4  # settings that are named; the rest is counted


@dataclass(frozen=True)
class Findings:
    """Labels and texts, one line each, and how the best is placed; both empty if there is nothing to compare."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    place: str = ""

    @property
    def sentences(self) -> list[str]:
        """The lines as they read one below the other; what has no label belongs to the line before."""
        found: list[str] = []
        for label, said in self.lines:
            if label or not found:
                found.append(f"{label}: {said}")
            else:
                found[-1] += f" {said}"
        return found


def findings(recipes: DataFrame, keys: Sequence[str], command: Sequence[str]) -> Findings:
    """Compares the best recipe with every other.

    `recipes` has the best first, `keys` are those that its recipes differ in, `command` holds the words of the command
    line that ran them; empty if more seeds cannot be had by it.
    """
    compared = recipes.dropna(subset="accuracy")
    if len(compared) < 2:
        return Findings()
    names = [swept_name(values) for values in compared[[*keys]].to_dict("records")]
    seeds = list(dict.fromkeys(seed for by_seed in compared.by_seed for seed in by_seed))
    table = DataFrame([*compared.by_seed], columns=seeds).to_numpy(dtype=float)
    shared = int((~np.isnan(table[1:]) & ~np.isnan(table[0])).sum(axis=1).max())
    if shared >= FEWEST_SEEDS:
        found = _by_seeds(names, table, shared)
    elif shared > 1:
        few = f"{shared} cannot show a difference, however large: an exact two-sided test takes {FEWEST_SEEDS}"
        found = Findings([("seeds", f"{few} to come below 5 %")], "not told apart from the others yet")
    else:
        found = _by_images(names, compared)
    return Findings([*found.lines, *_more_seeds(len(names), max(shared, 1), seeds, command)], found.place)


def _by_seeds(names: Sequence[str], table: statistics.Numbers, shared: int) -> Findings:
    tied: list[str] = []
    real: list[str] = []
    few: list[str] = []
    for name, other in zip(names[1:], statistics.behind(table), strict=True):
        # Without a comma, at which the text may be folded.
        said = f"{name} by {100 * other.mean:.2f} ± {100 * other.half_width:.2f} points ({_p(other.p)})"
        if other.seeds < FEWEST_SEEDS:
            few.append(name)
        else:
            (real if other.is_real else tied).append(said)
    pairs = counted(comb(len(names), 2), "pair")
    method = f"sign-flip tests, paired over {shared} seeds, corrected for {pairs}; ± is a 95 % interval"
    found = _told(names[0], tied, real, "behind beyond seed noise", method)
    return Findings([*found.lines, *([("too few seeds", _listed(few))] if few else [])], found.place)


def _by_images(names: Sequence[str], compared: DataFrame) -> Findings:
    images = compared.images
    if images.isna().any():
        return Findings()
    counts = [(round(accuracy * of), int(of)) for accuracy, of in zip(compared.accuracy, images, strict=True)]
    p_values = {other: statistics.two_shares(*counts[0], *other) for other in {*counts[1:]}}
    pairs = comb(len(names), 2)
    corrected = statistics.holm([p_values[other] for other in counts[1:]], among=pairs)
    tied: list[str] = []
    real: list[str] = []
    for name, accuracy, p in zip(names[1:], compared.accuracy.iloc[1:], corrected, strict=True):
        said = f"{name} by {100 * (compared.accuracy.iloc[0] - accuracy):.2f} points ({_p(p)})"
        (real if p <= ALPHA else tied).append(said)
    of = f"{int(images.iloc[0]):,} " if images.nunique() == 1 else ""
    method = f"Fisher's exact test on {of}validation images, corrected for {counted(pairs, 'pair')}"
    return _told(names[0], tied, real, "behind", f"{method}; one seed does not show seed noise")


def _told(best: str, tied: list[str], real: list[str], behind: str, method: str) -> Findings:
    place = f"tied with {counted(len(tied), 'other')}" if tied else "alone at the top"
    lines = [("best", best), ("tied with the best", _listed(tied)), (behind, _listed(real)), ("judged by", method)]
    return Findings(lines, place)


def _listed(said: list[str]) -> str:
    more = len(said) - NAMED
    return ", ".join([*said[:NAMED], *([f"and {more} more"] if more > 0 else [])]) or "none"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _more_seeds(settings: int, have: int, used: Sequence[str], command: Sequence[str]) -> list[tuple[str, str]]:
    """What to run if these are too few seeds; `used` are those of any run."""
    needed = seeds_needed(settings)
    if have >= needed:
        return []
    said = f"{settings} settings need {needed} to show a difference of three seed deviations, {needed - have} more"
    if not command:
        which, seeds = ("them", needed) if settings <= NAMED else ("the best few", seeds_needed(NAMED))
        return [("seeds needed", f"{said}; sweep {which} with 'seed=range({seeds})'")]
    return [("seeds needed", f"{said} (finished runs count):"), ("", with_seeds(command, used, needed))]


def with_seeds(command: Sequence[str], used: Sequence[str], needed: int) -> str:
    """The command line that runs a sweep with so many seeds, those that it has used among them."""
    have = [int(seed) for seed in used if seed.isdigit()]
    new = (seed for seed in count(min(have, default=0)) if seed not in have)
    seeds = sorted([*have, *islice(new, max(0, needed - len(have)))])
    first, last = seeds[0], seeds[-1]
    values = ",".join(map(str, seeds))
    if len(seeds) == last - first + 1:
        values = f"range({first},{last + 1})" if first else f"range({last + 1})"
    kept = [word for word in command if not word.startswith(("seed=", "resume="))]
    return shlex.join(["python", *kept, f"seed={values}", "resume=true"])


def of_two(runs: Sequence[RecordedRun], names: Sequence[str]) -> list[tuple[str, str]]:
    """On how many test images two runs differ, and whether that is chance; nothing without predictions for the same."""
    first, second = map(_predictions, runs)
    if first is None or second is None or not runs[0].digest:
        return []
    if runs[0].digest != runs[1].digest or not first.label.equals(second.label):
        return []
    right, right_too = first.predicted == first.label, second.predicted == second.label
    only_first, only_second = int((right & ~right_too).sum()), int((~right & right_too).sum())
    p = statistics.mcnemar(only_first, only_second)
    differ = f"the two differ on {int((first.predicted != second.predicted).sum()):,} of {len(first):,}"
    right_on = f"only {names[0]} is right on {only_first:,}, only {names[1]} on {only_second:,}"
    meaning = "more than chance, for these two nets" if p <= ALPHA else "which may be chance"
    return [("test images", f"{differ}; {right_on}: McNemar's exact {_p(p)}, {meaning}")]


def _predictions(run: RecordedRun) -> DataFrame | None:
    """Its predictions for the test images, one a line; None if it kept none, as older runs."""
    try:
        with run.files(File.PREDICTIONS) as folder:
            found = pd.read_csv(folder / File.PREDICTIONS, usecols=["image", "label", "predicted"], dtype=int)
            return found.sort_values("image", ignore_index=True)
    except (UserError, OSError, ValueError):
        return None
