"""Statistics over seeds, against scipy, statsmodels and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from oneticket.errors import InputError
from oneticket.statistics import (
    describe,
    deviation,
    equivalence,
    holm,
    mean,
    paired_difference,
    t_interval,
)

accuracies = st.floats(0, 1, allow_subnormal=False)
# Equal values apart by rounding only would compare rounding errors, so spread them over a grid.
spread = st.lists(st.integers(0, 10_000).map(lambda k: k / 10_000), min_size=2, max_size=12).filter(
    lambda values: len(set(values)) > 1
)


@given(spread)
def test_a_sample_agrees_with_statsmodels(values: list[float]) -> None:
    sample, oracle = describe(values), DescrStatsW(values)
    assert sample.n == len(values)
    assert sample.mean == pytest.approx(oracle.mean, abs=1e-14)
    assert sample.deviation == pytest.approx(stats.tstd(values), rel=1e-9)
    assert sample.interval is not None
    low, high = oracle.tconfint_mean(alpha=0.05)
    assert (sample.interval.low, sample.interval.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


@given(spread, st.floats(0.5, 0.999))
def test_the_interval_agrees_with_scipy_at_any_confidence(values: list[float], confidence: float) -> None:
    interval = t_interval(values, confidence)
    low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-8, abs=1e-11)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=3, max_size=10))
def test_a_paired_difference_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    first = {seed: a / 10_000 for seed, (a, _) in enumerate(pairs)}
    second = {seed: b / 10_000 for seed, (_, b) in enumerate(pairs)}
    if len({a - b for a, b in pairs}) == 1:
        return
    oracle = stats.ttest_rel(list(first.values()), list(second.values()))
    found = paired_difference(first, second)
    assert found is not None
    assert found.n == len(pairs)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-6, abs=1e-12)
    assert found.interval is not None
    interval = oracle.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


@given(st.lists(accuracies, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_seeds_changes_no_bit(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert describe(shuffled) == describe(values)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_95_percent_interval_covers_the_true_mean_95_times_in_a_hundred(n: int) -> None:
    draws = np.random.default_rng(n).normal(0.9, 0.01, size=(4000, n))
    intervals = [t_interval(row) for row in draws]
    covered = np.mean([i is not None and i.low <= 0.9 <= i.high for i in intervals])
    # Four binomial standard deviations of 4,000 draws at 0.95; the normal quantile would cover 70 to 90 %.
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_the_p_value_is_uniform_under_no_difference() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 2, 6))
    differences = [paired_difference(dict(enumerate(a)), dict(enumerate(b))) for a, b in draws]
    assert stats.kstest([d.p for d in differences if d is not None], "uniform").pvalue > 0.001


def test_pairs_are_matched_by_seed_and_the_others_left_out() -> None:
    first, second = {2: 0.5, 0: 0.9, 1: 0.8, 7: 0.0}, {0: 0.8, 1: 0.6, 2: 0.4, 9: 1.0}
    found = paired_difference(first, second)
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx((0.1 + 0.2 + 0.1) / 3)


def test_the_difference_is_the_first_less_the_second() -> None:
    found = paired_difference({0: 3.0, 1: 5.0}, {0: 1.0, 1: 1.0})
    assert found is not None
    assert found.mean == 3.0


def test_without_a_common_seed_there_is_no_difference() -> None:
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_one_value_has_a_mean_and_nothing_more() -> None:
    sample = describe([0.25])
    assert (sample.n, sample.mean, sample.deviation, sample.interval) == (1, 0.25, None, None)
    found = paired_difference({0: 0.75}, {0: 0.5})
    assert found is not None
    assert (found.n, found.mean, found.interval, found.p) == (1, 0.25, None, None)


# -- what the test split can resolve ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.5, 0.25, 0.125), (0.5, 0.25, 0.125)),
        ((0.75, 0.5, 0.375), (0.5, 0.25, 0.125)),
        ((0.9, 0.8, 0.7), (0.8, 0.7, 0.6)),  # equal differences that float64 has as 0.1 and 0.0999…98
    ],
)
def test_equal_differences_over_an_unknown_number_of_images_show_nothing(
    first: tuple[float, ...], second: tuple[float, ...]
) -> None:
    pair = dict(enumerate(first)), dict(enumerate(second))
    found, same = paired_difference(*pair), equivalence(*pair, 0.5)
    assert found is not None
    assert same is not None
    assert (found.interval, found.p, found.spread, same.p) == (None, None, None, None)
    assert not same.holds()


counted = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=2, max_size=8)


@given(counted)
def test_with_the_images_known_the_variance_of_rounding_is_added(pairs: list[tuple[int, int]]) -> None:
    """t on s² + 1/(6 N²), from the formula; nothing has zero width and no p value is zero."""
    first, second = ({seed: pair[side] / 300 for seed, pair in enumerate(pairs)} for side in (0, 1))
    differences = np.array([a - b for a, b in pairs]) / 300
    n, variance = len(pairs), np.var(differences, ddof=1) + 1 / (6 * 300**2)
    t = stats.t(n - 1, loc=np.mean(differences), scale=math.sqrt(variance / n))
    found, same = paired_difference(first, second, images=300), equivalence(first, second, 0.01, images=300)
    assert found is not None
    assert same is not None
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(t.interval(0.95), rel=1e-9, abs=1e-12)
    assert found.p == pytest.approx(2 * min(t.cdf(0), t.sf(0)), rel=1e-9)
    assert (same.p_below, same.p_above) == pytest.approx((t.cdf(-0.01), t.sf(0.01)), rel=1e-7, abs=1e-15)
    assert found.interval.high - found.interval.low > 1 / 300 / math.sqrt(n)
    assert found.p > 0


@given(st.lists(st.integers(0, 300), min_size=2, max_size=8))
def test_the_interval_of_a_mean_accuracy_stays_within_its_bounds(counts: list[int]) -> None:
    values = np.array(counts) / 300
    variance = np.var(values, ddof=1) + 1 / (12 * 300**2)
    low, high = stats.t.interval(0.95, len(counts) - 1, np.mean(values), math.sqrt(variance / len(counts)))
    found = describe(values, images=300, bounds=(0, 1)).interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((max(low, 0), min(high, 1)), rel=1e-9, abs=1e-12)
    assert 0 <= found.low < found.high <= 1


def test_two_seeds_with_equal_differences_have_no_small_p() -> None:
    """The star of `bwn −2.82 [−2.82, −2.82] *`: two seeds, 355 images, ten images fewer in both."""
    found = paired_difference({0: 320 / 355, 1: 318 / 355}, {0: 330 / 355, 1: 328 / 355}, images=355)
    assert found is not None
    assert found.interval is not None
    assert found.interval.high - found.interval.low > 0.02
    assert found.p is not None
    assert found.p > 0.01


def test_a_test_split_has_images() -> None:
    with pytest.raises(InputError, match="0 test images"):
        paired_difference({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}, images=0)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_nothing_and_what_is_not_finite_are_refused(values: list[float]) -> None:
    for function in (mean, deviation, t_interval, describe):
        with pytest.raises(InputError, match="statistics"):
            function(values)


# -- equivalence ------------------------------------------------------------------------------------------------------
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=3, max_size=10),
    st.integers(1, 20_000),
)
def test_equivalence_agrees_with_statsmodels(pairs: list[tuple[int, int]], margin: int) -> None:
    if len({a - b for a, b in pairs}) == 1:
        return
    first = {seed: a / 10_000 for seed, (a, _) in enumerate(pairs)}
    second = {seed: b / 10_000 for seed, (_, b) in enumerate(pairs)}
    bound = margin / 10_000
    p, below, above = ttost_paired(np.array(list(first.values())), np.array(list(second.values())), -bound, bound)
    found = equivalence(first, second, bound)
    assert found is not None
    assert (found.n, found.margin) == (len(pairs), bound)
    assert (found.p, found.p_below, found.p_above) == pytest.approx((p, below[1], above[1]), rel=1e-6, abs=1e-12)


@given(spread, st.floats(0.001, 1), st.sampled_from([0.01, 0.05, 0.1]))
def test_equivalence_holds_iff_the_interval_lies_inside_the_margin(
    values: list[float], margin: float, level: float
) -> None:
    """The interval of confidence 1 − 2α (Schuirmann 1987)."""
    interval = t_interval(values, 1 - 2 * level)
    assert interval is not None
    if min(abs(interval.low + margin), abs(interval.high - margin)) < 1e-9:
        return
    found = equivalence(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0), margin)
    assert found is not None
    assert found.holds(level) is (-margin < interval.low and interval.high < margin)


def test_what_differs_by_the_margin_is_called_equivalent_5_times_in_a_hundred() -> None:
    draws = np.random.default_rng(0).normal(0.002, 0.001, size=(4000, 6))
    found = [equivalence(dict(enumerate(row)), dict.fromkeys(range(6), 0.0), 0.002) for row in draws]
    shown = np.mean([e is not None and e.holds() for e in found])
    assert shown == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 4000))


def test_equivalence_is_never_shown_by_one_pair() -> None:
    found = equivalence({0: 0.5, 1: 0.1}, {0: 0.5}, 0.1)
    assert found is not None
    assert (found.n, found.mean, found.p_below, found.p_above, found.p) == (1, 0.0, None, None, None)
    assert not found.holds()
    assert equivalence({0: 0.5}, {1: 0.5}, 0.1) is None


@pytest.mark.parametrize(("shift", "holds"), [(0.0, True), (0.5, False), (-0.25, False)])
def test_equal_differences_are_inside_the_margin_or_not(shift: float, holds: bool) -> None:
    second = {0: 0.5, 1: 0.25, 2: 0.125}
    found = equivalence({seed: x + shift for seed, x in second.items()}, second, 0.25, images=1000)
    assert found is not None
    assert found.holds() is holds


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan, math.inf])
def test_a_margin_must_be_above_zero(margin: float) -> None:
    with pytest.raises(InputError, match="equivalence: the margin is"):
        equivalence({0: 1.0}, {0: 1.0}, margin)


# -- Holm -------------------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 1000).map(lambda k: k / 1000), max_size=12))
def test_holm_rejects_what_the_procedure_rejects(p_values: list[float]) -> None:
    """Step down: from the smallest on, reject while the i-th is at most α / (m − i + 1)."""
    adjusted = holm(p_values)
    for level in (0.0505, 0.2005):
        rejected: set[int] = set()
        for i, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__), start=1):
            if p_values[position] > level / (len(p_values) - i + 1):
                break
            rejected.add(position)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005], [0.02, 0.9, 0.02, 0.6, 0.02]])
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


def test_what_is_no_p_value_is_refused() -> None:
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="holm: a p value is outside 0 to 1"):
            holm([0.5, wrong])
