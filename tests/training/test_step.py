"""Moments: read, counted, written the same way again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneticket.errors import InputError
from oneticket.training import Step


@pytest.mark.parametrize(
    ("value", "epochs", "its"),
    [("1ep", 1, 0), ("500it", 0, 500), ("2ep50it", 2, 50), (0, 0, 0), (17, 0, 17), ("0it", 0, 0), ("0ep", 0, 0)],
)
def test_moments_are_read(value: str | int, epochs: int, its: int) -> None:
    assert Step.parse(value) == Step(epochs, its)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**4))
def test_a_moment_counts_steps_and_reads_back(epochs: int, its: int, per_epoch: int) -> None:
    step = Step(epochs, its)
    assert step.iterations(per_epoch) == epochs * per_epoch + its
    assert Step.parse(str(step)) == step
    assert Step.parse(step) is step


def test_one_moment_is_written_in_one_way() -> None:
    """Names of files and identities of cells are made of it."""
    assert [str(Step.parse(moment)) for moment in (0, "0ep", "0it", "0ep0it")] == ["0it"] * 4
    assert [str(Step.parse(moment)) for moment in ("1ep0it", "01ep", 3)] == ["1ep", "1ep", "3it"]


@pytest.mark.parametrize("wrong", ["", "ep", "1 ep", "1epoch", "50it2ep", "-1it", "1.5ep", "5", -1, 1.0, True, None])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="is not a valid moment; expected such as 1ep"):
        Step.parse(wrong)
