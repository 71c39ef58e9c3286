"""The sign-flip test and the power of the paired t test, against scipy, statsmodels and the integral itself."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower

from oneticket.errors import InputError
from oneticket.statistics import LONGEST, achieved, seeds_needed, sign_flip, smallest_detectable

pairs = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6)


def flipped(counts: list[tuple[int, int]], images: int | None) -> float | None:
    scale = images or 1
    first, second = ({seed: pair[side] / scale for seed, pair in enumerate(counts)} for side in (0, 1))
    return sign_flip(first, second, images=images)


@given(pairs, st.sampled_from([None, 355]))
def test_the_sign_flip_test_goes_through_all_signs(counts: list[tuple[int, int]], images: int | None) -> None:
    differences = [a - b for a, b in counts]
    choices = list(itertools.product((1, -1), repeat=len(counts)))
    sums = [abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) for signs in choices]
    assert flipped(counts, images) == pytest.approx(np.mean([total >= sums[0] for total in sums]), abs=1e-9)


def test_the_sign_flip_test_agrees_with_scipy() -> None:
    counts = [(7, 1), (5, 6), (9, 4), (4, 4), (8, 3), (6, 5)]
    first, second = np.array(counts).T
    found = stats.permutation_test(
        (first, second), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=10_000
    )
    assert flipped(counts, None) == pytest.approx(found.pvalue, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_equal_differences_give_the_smallest_p_that_n_pairs_can(n: int) -> None:
    """Decided on whole images: in float64 the sums of 0.1 and 0.09999999999999998 would not be equal."""
    first, second = {s: 0.9 - s / 10 for s in range(n)}, {s: 0.8 - s / 10 for s in range(n)}
    assert sign_flip(first, second) == sign_flip(first, second, images=10) == 2 / 2**n


def test_too_many_pairs_and_none_have_no_exact_test() -> None:
    many = dict.fromkeys(range(LONGEST + 1), 0.5)
    assert sign_flip(many, many) is None
    assert sign_flip({0: 0.5}, {1: 0.5}) is None


# -- power ------------------------------------------------------------------------------------------------------------
@settings(max_examples=8)
@given(st.integers(2, 40), st.floats(0, 4))
def test_the_power_is_the_integral_of_the_noncentral_t(n: int, effect: float) -> None:
    """P(|Z + δ| > t √(χ²/ν)), integrated by scipy over χ² by its quantiles."""
    beyond, shift = stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)

    def shown(u: float) -> float:
        v = math.sqrt(stats.chi2.ppf(u, n - 1) / (n - 1))
        return float(stats.norm.cdf(shift - beyond * v) + stats.norm.cdf(-shift - beyond * v))

    assert achieved(n, effect) == pytest.approx(integrate.quad(shown, 0, 1, epsabs=1e-9)[0], abs=1e-7)


@pytest.mark.parametrize("n", [3, 6, 10, 30])
def test_the_power_agrees_with_statsmodels(n: int) -> None:
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert achieved(n, effect) == pytest.approx(TTestPower().power(effect, n, 0.05), abs=1e-9)
    assert smallest_detectable(n, 2.0) == pytest.approx(2 * effect, rel=1e-5)


def test_two_seeds_show_what_simulation_says() -> None:
    """scipy's own noncentral t is not a number here."""
    draws = np.random.default_rng(0).normal(smallest_detectable(2, 1.0), 1, size=(100_000, 2))
    t = draws.mean(1) * math.sqrt(2) / draws.std(1, ddof=1)
    assert np.mean(np.abs(t) > stats.t.ppf(0.975, 1)) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 100_000))


@given(st.floats(0.05, 20))
def test_the_seeds_needed_are_the_fewest(effect: float) -> None:
    n = seeds_needed(effect, 1.0)
    assert n is not None
    assert achieved(n, effect) >= 0.8
    assert n == 2 or achieved(n - 1, effect) < 0.8


def test_the_seeds_needed_agree_with_statsmodels() -> None:
    assert seeds_needed(0.5, 0.4) == math.ceil(TTestPower().solve_power(effect_size=1.25, alpha=0.05, power=0.8))
    assert seeds_needed(-0.1, 1.0) == math.ceil(TTestPower().solve_power(effect_size=0.1, alpha=0.05, power=0.8))


def test_no_difference_can_be_shown_where_there_is_none() -> None:
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-6, 1.0) is None
    assert seeds_needed(1.0, 0.0) == 2


def test_one_pair_and_a_power_that_is_none_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 seeds"):
        achieved(1, 1.0)
    with pytest.raises(InputError, match="a power of 1"):
        smallest_detectable(6, 1.0, power=1.0)
