"""Selection: exactly k of the largest, ties by index; budgets divided exactly, caps respected."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneticket.errors import InputError
from oneticket.pruning.selection import apportion, largest, largest_alive, random_positions

# Few distinct values, so that almost every example has ties at the threshold.
TYING = st.lists(st.integers(-3, 3), min_size=1, max_size=40)


def reference(values: list[float], count: int) -> list[bool]:
    """The first ``count`` by descending value, equal values by ascending index."""
    chosen = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    return [i in chosen for i in range(len(values))]


@given(TYING, st.data())
def test_the_largest_are_kept_and_ties_go_by_index(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    assert largest(torch.tensor(values, dtype=torch.float64), count).tolist() == reference(values, count)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=40), st.data())
def test_any_float64_is_compared_as_such(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    assert largest(torch.tensor(values, dtype=torch.float64), count).tolist() == reference(values, count)


def test_differences_below_float32_are_seen() -> None:
    values = torch.tensor([1.0, 1.0 + 1e-12, 1.0 - 1e-12], dtype=torch.float64)
    assert largest(values, 1).tolist() == [False, True, False]
    assert largest_alive(values, torch.tensor([True, False, True]), 1).tolist() == [True, False, False]
    assert largest_alive(values.flip(0), torch.ones(3, dtype=torch.bool), 1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_when_all_magnitudes_tie_exactly_k_stay(dtype: torch.dtype) -> None:
    """Thresholds compared with < or ≤ prune n + 1 weights, or all of them."""
    for count in (0, 1, 499, 999, 1000):
        assert largest(torch.ones(1000, dtype=dtype), count).tolist() == [i < count for i in range(1000)]


def test_what_is_not_a_number_is_kept_first() -> None:
    values = torch.tensor([1.0, math.nan, -math.inf, math.inf, math.nan, 2.0])
    for count, kept in ((1, [1]), (2, [1, 3]), (3, [1, 3, 4]), (4, [1, 3, 4, 5]), (6, [0, 1, 2, 3, 4, 5])):
        assert largest(values, count).nonzero().flatten().tolist() == kept


@given(TYING, st.data())
def test_the_dead_are_never_kept(values: list[int], data: st.DataObject) -> None:
    alive = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    count = data.draw(st.integers(0, sum(alive)))
    living = [i for i, a in enumerate(alive) if a]
    kept = reference([values[i] for i in living], count)
    expected = {i for i, k in zip(living, kept, strict=True) if k}
    mask = largest_alive(torch.tensor(values), torch.tensor(alive), count)
    assert set(mask.nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"cannot keep {count} of 3 weights"):
        largest(torch.ones(3), count)


def test_random_positions_are_exact_and_uniform() -> None:
    generator, draws = torch.Generator().manual_seed(0), 3000
    masks = torch.stack([random_positions((2, 3), 2, generator) for _ in range(draws)])
    assert (masks.flatten(1).sum(dim=1) == 2).all()
    deviation = (1 / 3 * 2 / 3 / draws) ** 0.5
    assert ((masks.double().mean(dim=0) - 1 / 3).abs() < 4 * deviation).all()


@st.composite
def budgets(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    parts = draw(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 500)), min_size=1, max_size=6))
    shares, caps = [share for share, _ in parts], [cap for _, cap in parts]
    return draw(st.integers(0, sum(caps))), shares, caps


@given(budgets())
def test_budgets_are_divided_exactly_under_their_caps(budget: tuple[int, list[int], list[int]]) -> None:
    """Each part is within 1 of min(cap, s · share), where bisection finds the scale s that uses up the total."""
    total, shares, caps = budget
    parts = apportion(total, shares, caps)
    assert sum(parts) == total
    assert all(0 <= part <= cap for part, cap in zip(parts, caps, strict=True))
    low, high = 0.0, 1.0 + max(caps)
    for _ in range(200):
        scale = (low + high) / 2
        used = np.minimum(caps, scale * np.array(shares)).sum()
        low, high = (scale, high) if used < total else (low, scale)
    ideal = np.minimum(caps, high * np.array(shares))
    assert (np.abs(np.array(parts) - ideal) < 1 + 1e-6).all()
    # A part at its cap is exactly there: only those below it are rounded.
    assert all(p == c for p, c, s in zip(parts, caps, shares, strict=True) if high * s > c * (1 + 1e-9) + 1e-9)


def test_the_largest_remainders_are_rounded_up_the_earlier_first() -> None:
    assert apportion(10, [1, 1, 1], [9, 9, 9]) == [4, 3, 3]
    assert apportion(10, [30, 33, 37], [99, 99, 99]) == [3, 3, 4]
    assert apportion(3, [16, 26, 58], [9, 9, 9]) == [0, 1, 2]


def test_saturation_is_solved_again_when_it_makes_others_saturate() -> None:
    # Scale 10/8 saturates only the first (6.25 > 2); then 8/3 saturates the second too (5.3 > 4).
    assert apportion(10, [5, 2, 1], [2, 4, 9]) == [2, 4, 4]


def test_no_room_is_refused() -> None:
    with pytest.raises(InputError, match="cannot keep 6 of 5 weights"):
        apportion(6, [1, 1], [2, 3])
