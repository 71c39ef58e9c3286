"""Verdicts against t tests and Holm's correction, written out from their formulas; rules that hold for all numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from oneticket.errors import InputError
from oneticket.statistics import POWER, seeds_needed
from oneticket.verdicts import LEVEL, Place, Question, judge

BETTER = Question("a beats b", "a − b", direction="better")
WORSE = Question("a loses to b", "a − b", direction="worse")
EQUAL = Question("a equals b", "a − b", margin=0.01)


def place(differences: Sequence[float], where: str = "here", missing: tuple[str, ...] = ()) -> Place:
    """A place at which the paired differences are these, in fractions."""
    second = {seed: 0.5 + 0.01 * seed for seed in range(len(differences))}
    first = {seed: second[seed] + difference for seed, difference in enumerate(differences)}
    return Place(where, first, second, missing)


def draws(mean: float, spread: float, n: int, seed: int) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(mean, spread) for _ in range(n)]


def t_of(differences: Sequence[float], bound: float = 0.0) -> float:
    """Student's t of a mean against a bound, from the formula."""
    n, mean = len(differences), sum(differences) / len(differences)
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    return (mean - bound) * math.sqrt(n) / spread


def two_sided(differences: Sequence[float], bound: float = 0.0) -> float:
    return float(2 * stats.t.sf(abs(t_of(differences, bound)), len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p against all hypotheses that are not rejected before it, from the definition."""
    order = sorted(p_values)
    return [max(min(1.0, (len(order) - i) * q) for i, q in enumerate(order) if q <= p) for p in p_values]


LISTS = [draws(0.02, 0.012, 6, 1), draws(0.015, 0.02, 6, 2), draws(0.004, 0.01, 6, 3)]


def test_the_p_values_of_a_direction_are_holms_over_the_places() -> None:
    verdict = judge(BETTER, [place(differences) for differences in LISTS])
    expected = holm([two_sided(differences) for differences in LISTS])
    assert [test.p for test in verdict.tests] == pytest.approx(expected, rel=1e-9)
    assert [test.outcome == "shown" for test in verdict.tests] == [p <= LEVEL for p in expected]
    assert {test.outcome for test in verdict.tests} == {"shown", "open"}
    assert verdict.word == "not decided"


def test_the_p_values_of_equality_are_those_of_two_one_sided_tests() -> None:
    lists = [draws(0.001, 0.004, 6, 4), draws(0.004, 0.006, 6, 5)]
    verdict = judge(EQUAL, [place(differences) for differences in lists])
    one_sided = [
        max(stats.t.sf(t_of(found, -0.01), len(found) - 1), stats.t.cdf(t_of(found, 0.01), len(found) - 1))
        for found in lists
    ]
    assert [test.p for test in verdict.tests] == pytest.approx(holm(one_sided), rel=1e-9)


def test_a_difference_beyond_the_margin_contradicts_equality() -> None:
    far = draws(-0.05, 0.01, 6, 6)
    verdict = judge(EQUAL, [place(draws(0.0, 0.003, 6, 7)), place(far)])
    assert verdict.word == "contradicted"
    assert [test.outcome for test in verdict.tests] == ["shown", "opposite"]
    assert verdict.tests[1].p == pytest.approx(holm([1.0, two_sided(far, -0.01)])[1], rel=1e-9)


def test_a_claim_holds_at_all_places_and_falls_at_one() -> None:
    good, open_, bad = draws(0.03, 0.005, 6, 8), draws(0.0, 0.02, 6, 9), draws(-0.03, 0.005, 6, 10)
    assert judge(BETTER, [place(good), place(good)]).word == "supported"
    assert judge(BETTER, [place(good), place(open_)]).word == "not decided"
    assert judge(BETTER, [place(good), place(bad), place(open_)]).word == "contradicted"
    assert judge(WORSE, [place(bad)]).word == "supported"


def test_nothing_is_decided_while_a_network_is_missing() -> None:
    verdict = judge(BETTER, [place(draws(0.03, 0.005, 6, 8), missing=("a, seed 6",)), place(draws(-0.1, 0.01, 6, 1))])
    assert verdict.word == "not decided"
    assert verdict.lacks == ("1 network is not there: a, seed 6",)
    assert {test.outcome for test in verdict.tests} == {"open"}


@pytest.mark.parametrize("differences", [[0.03], []])
def test_a_single_seed_decides_nothing(differences: list[float]) -> None:
    verdict = judge(BETTER, [place(differences)])
    assert verdict.word == "not decided"
    assert "at least 2" in verdict.lacks[0]


def test_an_open_claim_tells_the_seeds_that_would_decide() -> None:
    differences = draws(0.01, 0.02, 6, 12)
    (test,) = judge(BETTER, [place(differences)]).tests
    mean = sum(differences) / 6
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / 5)

    def power(n: int) -> float:
        return float(stats.nct.sf(stats.t.isf(0.025, n - 1), n - 1, abs(mean) * math.sqrt(n) / spread))

    assert test.seeds is not None
    assert power(test.seeds - 1) < POWER <= power(test.seeds)


def test_an_open_equality_tells_the_seeds_of_a_one_sided_test() -> None:
    differences = draws(0.004, 0.012, 6, 12)
    (test,) = judge(EQUAL, [place(differences)]).tests
    mean = sum(differences) / 6
    distance, spread = 0.01 - mean, math.sqrt(sum((d - mean) ** 2 for d in differences) / 5)

    def power(n: int) -> float:
        return float(stats.nct.sf(stats.t.isf(0.05, n - 1), n - 1, distance * math.sqrt(n) / spread))

    assert test.outcome == "open"
    assert distance > 0
    assert test.seeds is not None
    assert power(test.seeds - 1) < POWER <= power(test.seeds)


def test_where_it_points_the_other_way_that_is_told() -> None:
    verdict = judge(BETTER, [place(draws(-0.004, 0.01, 6, 3), "there")])
    assert verdict.word == "not decided"
    assert verdict.lacks[0] == "the difference points the other way at there"


def test_the_seeds_that_are_asked_for_do_decide_that_often() -> None:
    """By simulation: with so many seeds, four in five tests show the difference."""
    n = seeds_needed(0.01, 0.01)
    assert n is not None
    shown = sum(two_sided(draws(0.01, 0.01, n, seed)) <= LEVEL for seed in range(2000)) / 2000
    assert POWER - 0.04 < shown < POWER + 0.08


@given(st.floats(1e-4, 0.2), st.floats(1e-4, 0.2), st.floats(1e-4, 0.05))
def test_a_larger_distance_needs_no_more_seeds(distance: float, more: float, spread: float) -> None:
    near, far = seeds_needed(distance, spread), seeds_needed(distance + more, spread)
    assert near is None or (far is not None and 2 <= far <= near)


def test_no_seeds_for_no_distance() -> None:
    assert seeds_needed(0.0, 0.1) is None
    assert seeds_needed(1e-6, 0.1) is None
    assert seeds_needed(0.1, 0.0) == 2
    few = seeds_needed(0.1, 1.0, most=10_000)
    assert few is not None
    assert seeds_needed(0.1, 1.0, most=few) == few
    assert seeds_needed(0.1, 1.0, most=few - 1) is None


DIFFERENCES = st.lists(
    st.lists(st.floats(-0.3, 0.3, allow_nan=False).map(lambda x: round(x, 4)), min_size=3, max_size=6),
    min_size=1, max_size=4,
)  # fmt: skip


@given(DIFFERENCES)
def test_what_supports_a_claim_contradicts_its_opposite(lists: list[list[float]]) -> None:
    """And the order of the places does not matter."""
    places = [place(differences) for differences in lists]
    better, worse = judge(BETTER, places), judge(WORSE, places)
    if better.word == "supported":
        assert worse.word == "contradicted"
    if better.word != "contradicted" and worse.word != "contradicted":
        assert {better.word, worse.word} == {"not decided"}
    assert judge(BETTER, places[::-1]).word == better.word
    turned = [Place(p.where, p.second, p.first) for p in places]
    assert judge(WORSE, turned).word == better.word


def test_a_question_is_a_direction_or_a_margin() -> None:
    for wrong in ({}, {"direction": "better", "margin": 0.1}):
        with pytest.raises(InputError, match="direction or a margin"):
            Question("?", "a − b", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="without a place"):
        judge(BETTER, [])
