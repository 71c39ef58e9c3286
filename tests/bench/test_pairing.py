"""The statistics of a paired run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneticket.bench.pairing import Spread, in_turns, ratio

seconds = st.floats(1e-4, 1e4)
pairs = st.lists(st.tuples(seconds, seconds), min_size=1, max_size=9)


def test_alternatives_come_in_turns() -> None:
    came: list[str] = []
    told: list[str] = []

    def measure(name: str, value: float) -> float:
        came.append(name)
        return value + len(came)

    contestants = {"a": lambda: measure("a", 0), "b": lambda: measure("b", 100)}
    assert in_turns(contestants, 3, told.append) == {"a": [1, 3, 5], "b": [102, 104, 106]}
    assert came == ["a", "b"] * 3
    assert told == ["turn 1 of 3", "turn 2 of 3", "turn 3 of 3"]


@given(pairs)
def test_a_ratio_is_the_median_over_the_turns(measured: list[tuple[float, float]]) -> None:
    slow, fast = np.array(measured).T
    found = ratio(slow.tolist(), fast.tolist())
    values = slow / fast
    assert found.values == pytest.approx(values.tolist())
    assert (found.median, found.low, found.high) == pytest.approx((np.median(values), values.min(), values.max()))


@given(pairs, st.data())
def test_a_machine_that_slows_down_for_whole_turns_changes_no_ratio(
    measured: list[tuple[float, float]], data: st.DataObject
) -> None:
    factors = data.draw(st.lists(st.floats(0.1, 10), min_size=len(measured), max_size=len(measured)))
    slow, fast = np.array(measured).T
    calm = ratio(slow.tolist(), fast.tolist())
    busy = ratio((slow * factors).tolist(), (fast * factors).tolist())
    assert busy.values == pytest.approx(calm.values)


@given(st.lists(seconds, min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_a_spread_holds_every_value_and_does_not_depend_on_their_order(values: list[float], chance: object) -> None:
    shuffled = list(values)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Spread.of(values), Spread.of(shuffled)
    assert one.values == values
    assert (one.median, one.low, one.high) == (other.median, other.low, other.high)
    assert one.low <= one.median <= one.high


def test_alternatives_of_unequal_turns_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])
