"""Tests and intervals: known values, and how often simulated sweeps show what is there and what is not."""

from collections.abc import Callable
from math import isnan, nan

import numpy as np
import pytest
from numpy.random import Generator
from scipy import stats

from lenetexp.sweeps.significance import (
    ALPHA,
    compare_accuracies,
    compute_gaps_to_best,
    compute_half_width,
    compute_mcnemar_p,
    compute_sign_flip_p,
    compute_wilson_interval,
    correct_by_holm,
    count_epochs_to,
    estimate_seeds,
)

# Darwin's maize, crossed minus self-fertilised, in eighths of an inch: Fisher 1935, The Design of Experiments, ch. III.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
Noise = Callable[[Generator, tuple[int, int]], np.ndarray]
# Of accuracies with a deviation of 1 each: symmetric, skewed, counts of 143 images, and with runs that collapse.
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed": lambda rng, shape: -rng.exponential(size=shape),
    "counts": lambda rng, shape: (rng.binomial(143, 0.98, shape) - 140.14) / 1.674,
    "collapses": lambda rng, shape: np.where(rng.random(shape) < 0.1, -3.3, 0) + rng.normal(0, 0.1, shape),
}


def test_the_sign_flip_test_gives_fishers_p_of_darwins_maize() -> None:
    """Section 21: of the 32,768 sums 1,726 are as far from 0 as the observed one, 314; p is 5.267 %."""
    (p,) = compute_sign_flip_p(np.array(DARWIN)[:, None])
    assert sum(DARWIN) == 314 and p == 1726 / 32768


@pytest.mark.parametrize("seeds", [2, 5, 8, 11])
def test_the_sign_flip_test_is_scipys(seeds: int) -> None:
    found = np.random.default_rng(seeds).normal(0.5, 1, seeds)
    theirs = stats.permutation_test([found], np.mean, permutation_type="samples", n_resamples=np.inf)
    assert compute_sign_flip_p(found[:, None])[0] == pytest.approx(theirs.pvalue)


def test_of_many_seeds_random_signs_are_enough() -> None:
    found = np.random.default_rng(0).normal(0.4, 1, 40)
    p, again = (compute_sign_flip_p(found[:, None])[0] for _ in range(2))
    assert p == again == pytest.approx(stats.ttest_1samp(found, 0).pvalue, abs=0.005) and 0 < p < 0.1
    assert compute_sign_flip_p(np.ones((40, 1)))[0] == 1 / 2**15, "never 0"


@pytest.mark.parametrize(("seeds", "smallest"), [(1, 1), (5, 0.0625), (6, 0.03125)])
def test_no_difference_however_large_is_significant_with_fewer_than_six_seeds(seeds: int, smallest: float) -> None:
    assert compute_gaps_to_best([[0.99] * seeds, [0.1] * seeds])[0].p == smallest


def test_equal_accuracies_are_no_difference() -> None:
    same, other = compute_gaps_to_best(np.array([[0.9] * 8, [0.9] * 8, [0.5, 0.6] * 4]))
    assert same.p == 1 and not same.is_real and other.is_real


def test_a_missing_run_leaves_its_seed_out_of_its_pairs_only() -> None:
    table = np.array([[0.95, 0.96, 0.97, 0.95, 0.94, 0.96], [0.90, 0.92, 0.91, nan, 0.90, 0.93], [nan] * 6])
    one, never = compute_gaps_to_best(table)
    assert one.seeds == 5 and one.p >= 2 / 2**5, "five pairs cannot show it"
    paired = table[0, [0, 1, 2, 4, 5]] - table[1, [0, 1, 2, 4, 5]]
    low, high = stats.ttest_1samp(paired, 0).confidence_interval()
    assert (one.mean - one.half_width, one.mean + one.half_width) == pytest.approx((low, high))
    assert never.seeds == 0 and isnan(never.mean) and never.p == 1


def test_holms_corrections() -> None:
    """The smallest of three by 3, the next by 2, and none below one that is smaller."""
    assert correct_by_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert correct_by_holm([0.01, 0.04], among=6) == pytest.approx([0.06, 0.2]) and correct_by_holm([0.4, 0.9]) == [
        0.8,
        0.9,
    ]


def test_known_intervals_and_exact_tests() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263.
    assert compute_wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert all(map(isnan, compute_wilson_interval(0.5, nan))) and all(map(isnan, compute_wilson_interval(nan, 360)))
    # Fisher's tea, 1935: three of four cups right.
    assert compare_accuracies(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert compute_mcnemar_p(0, 0) == compute_mcnemar_p(3, 3) == 1 and compute_mcnemar_p(9, 1) == compute_mcnemar_p(
        1, 9
    ) == pytest.approx(22 / 1024)
    assert compute_half_width([0.90, 0.92, 0.94]) == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)
    assert isnan(compute_half_width([0.9]))


def test_the_first_epoch_at_a_mark() -> None:
    curve = [(1, 0.5), (2, 0.91), (3, 0.89), (4, 0.95)]
    assert (
        count_epochs_to(curve, 0.9) == 2 and count_epochs_to(curve, 0.95) == 4 and isnan(count_epochs_to(curve, 0.96))
    )


def finds(table: np.ndarray) -> np.ndarray:
    """For each other setting, whether the summary calls it different from the best."""
    best = int(table.mean(axis=1).argmax())
    return np.array([difference.is_real for difference in compute_gaps_to_best(table, best)])


@pytest.mark.parametrize(("settings", "noise"), [(12, "collapses"), *((4, noise) for noise in NOISES)])
def test_chance_is_called_a_difference_in_at_most_one_of_twenty_sweeps(settings: int, noise: str) -> None:
    rng = np.random.default_rng(settings)
    wrong = sum(finds(NOISES[noise](rng, (settings, 8))).any() for _ in range(1000))
    assert 0 < wrong <= ALPHA * 1000


def test_two_tied_settings_stay_tied_whatever_the_others_do() -> None:
    """Two that are equal, one far behind and unsteady, one at chance."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        table = rng.normal([[0.97], [0.97], [0.6], [0.1]], [[0.01], [0.01], [0.2], [0.001]], (4, 8))
        wrong += bool(compute_gaps_to_best(table, best=int(table[:2].mean(axis=1).argmax()))[0].is_real)
    assert 0 < wrong <= ALPHA * 1000


@pytest.mark.parametrize("noise", ["normal", "skewed"])
def test_a_difference_of_three_deviations_is_found_with_eight_seeds(noise: str) -> None:
    """One of four settings is better than the other three, each of which is to be found."""
    rng, found = np.random.default_rng(2), []
    for _ in range(1000):
        table = NOISES[noise](rng, (4, 8))
        table[0] += 3
        found.append(finds(table))
    assert np.mean(found) > 0.9


@pytest.mark.parametrize("settings", [3, 6, 20])
def test_so_many_seeds_as_are_said_to_be_needed_find_it(settings: int) -> None:
    rng, found = np.random.default_rng(3), []
    assert stats.norm.cdf(3 / 2**0.5) ** estimate_seeds(2) > 0.9, "two settings: all differences have one sign"
    for _ in range(200):
        table = rng.normal(size=(settings, estimate_seeds(settings)))
        table[0] += 3
        found.append(finds(table))
    assert np.mean(found) > 0.9
