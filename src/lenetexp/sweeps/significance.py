"""Whether a difference is more than chance: exact tests and intervals, of numbers alone. See docs/statistics.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, comb, isnan, log2, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

# scipy.stats takes half a second to import, which single runs need not wait for: the functions below do it.

ALPHA = 0.05  # a difference is called one if chance alone shows any such in a table this often at most
FEWEST_SEEDS = 6  # 2 of 2^5 signs are more than 5 %
# Half of all signs of 16 seeds, the other half being their mirror image; of more seeds, so many random ones.
MOST_SIGNS = 2**15
AT_ONCE = 2_000_000  # numbers in a block of signs × pairs

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The distance of one setting from another, paired by seed. Accuracies are in [0, 1]."""

    mean: float
    half_width: float  # of the 95 % interval of the mean, by Student's t
    p: float  # corrected for all pairs
    seeds: int  # that both have

    @property
    def is_real(self) -> bool:
        return self.p <= ALPHA


def compute_sign_flip_p(differences: ArrayLike, seed: int = 0) -> Numbers:
    """Compute the two-sided p of each column of paired differences, corrected for all columns.

    Without an effect each seed's differences are as likely as their negatives, all together. So every pattern of signs
    is as likely as the one observed (Fisher 1935, section 21): p is the share of the 2^n patterns that are at least as
    extreme; with more than 16 seeds, of 32,768 random ones. The statistic is the self-normalised sum |Σd| / √Σd², which
    rises with Student's t (Efron 1969). Corrected by the step-down maximum (Westfall and Young 1993, algorithm 4.1;
    Romano and Wolf 2005): chance finds any difference in at most 5 % of all tables, however many columns there are and
    however they depend on each other. One column needs no correction.

    Args:
        differences: seeds×P; NaN is a missing pair.
        seed: Of the random patterns.
    """
    p_values = np.nan_to_num(np.asarray(differences, dtype=float))
    norms = np.sqrt((p_values**2).sum(axis=0))
    scaled = np.divide(p_values, norms, out=np.zeros_like(p_values), where=norms > 0)
    observed = np.abs(scaled.sum(axis=0))
    order = np.argsort(observed)  # the least extreme first: each is compared with those up to itself
    signs, as_extreme = _draw_signs(len(p_values), seed), np.zeros(len(order))
    for block in np.array_split(signs, ceil(len(signs) * len(order) / AT_ONCE)):
        extremes = np.maximum.accumulate(np.abs(block @ scaled[:, order]), axis=1)
        as_extreme += (extremes >= observed[order] - 1e-9).sum(axis=0)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(as_extreme[::-1] / len(signs))[::-1]
    return corrected


def _draw_signs(seeds: int, seed: int) -> Numbers:
    """Draw patterns×seeds of 1 and -1, among them the observed one, all 1. Mirror images count once."""
    if 2 ** (seeds - 1) <= MOST_SIGNS:
        return np.array([(1, *others) for others in product((1, -1), repeat=seeds - 1)], dtype=float)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (MOST_SIGNS, seeds))
    signs[0] = 1  # with it the p of a random sample is never too small (Phipson and Smyth 2010)
    return signs


def compute_gaps_to_best(accuracies: ArrayLike, best: int = 0) -> list[Difference]:
    """Compute how far each setting is behind the best one.

    Because the best one was chosen by what is tested here, p is corrected for all pairs of settings, not only for those
    with the best.

    Args:
        accuracies: settings×seeds; NaN where a run is missing.
        best: The row of the best setting.

    Returns:
        The differences of the others, in their order.
    """
    table = np.asarray(accuracies, dtype=float)
    one, other = np.triu_indices(len(table), 1)
    p = np.ones((len(table), len(table)))
    p[one, other] = p[other, one] = compute_sign_flip_p((table[one] - table[other]).T)
    differences = []
    for row in range(len(table)):
        if row != best:
            paired = table[best] - table[row]
            paired = paired[~np.isnan(paired)]
            mean = float(paired.mean()) if len(paired) else nan
            differences.append(Difference(mean, compute_half_width(paired), float(p[best, row]), len(paired)))
    return differences


def estimate_seeds(settings: int) -> int:
    """Estimate the seeds that separate two of `settings` settings in nine of ten sweeps.

    Their means are three seed deviations apart.

    With so many the smallest p that all 2^n signs allow, 2/2^n, is at most 5 % for every single pair even by
    Bonferroni's correction. That the power is over 90 % was simulated: docs/statistics.md.
    """
    return max(FEWEST_SEEDS, ceil(log2(2 * comb(settings, 2) / ALPHA)))


def compute_half_width(values: ArrayLike) -> float:
    """Return half of the 95 % interval of the mean, by Student's t; NaN for fewer than two values."""
    numbers = np.asarray(values, dtype=float)
    if len(numbers) < 2:
        return nan
    from scipy.special import stdtrit

    return float(stdtrit(len(numbers) - 1, 0.975) * numbers.std(ddof=1) / sqrt(len(numbers)))


def compute_wilson_interval(accuracy: float, images: float) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy in [0, 1] on `images` images (Wilson 1927); NaN if one of them is."""
    if isnan(accuracy) or isnan(images):
        return nan, nan
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * images), int(images)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def compare_accuracies(correct: int, images: int, other_correct: int, other_images: int) -> float:
    """Return the two-sided p of two accuracies, by Fisher's exact test.

    The test treats the images as different ones. Of two nets that are scored on the same images, which mostly fail on
    the same ones, it finds a difference less often than McNemar's test would.
    """
    from scipy.stats import fisher_exact

    table = [[correct, images - correct], [other_correct, other_images - other_correct]]
    return float(fisher_exact(table).pvalue)


def compute_mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p of two nets, from the images that only one of them reads (McNemar 1947)."""
    if not only_first + only_second:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue)


def correct_by_holm(p_values: Sequence[float], among: int = 0) -> list[float]:
    """Correct each p for all of them, and for others: `among` tests in all (Holm 1979)."""
    total, corrected, most = max(among, len(p_values)), [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        most = max(most, min(1.0, (total - rank) * p_values[i]))
        corrected[i] = most
    return corrected


def count_epochs_to(curve: Sequence[tuple[int, float]], accuracy: float) -> float:
    """Return the first epoch of a curve of epochs and accuracies that reaches `accuracy`; NaN if none does."""
    return next((float(epoch) for epoch, epochs in curve if epochs >= accuracy), nan)
