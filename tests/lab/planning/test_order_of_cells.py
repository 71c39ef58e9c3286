"""The order of cells: parents first, and one data set after the other."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from oneticket.data import DataRef
from oneticket.lab.planning.order import by_data


class Cell:
    """As much of a description as an order looks at."""

    def __init__(self, data: int, parents: tuple[str, ...]) -> None:
        self.data, self.parents = DataRef(fingerprint=f"{data}"), parents


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for number in range(draw(st.integers(0, 12))):
        parents = draw(st.lists(st.sampled_from([*cells, "elsewhere"]), max_size=2, unique=True))
        cells[f"cell{number}"] = Cell(draw(st.integers(0, 2)), tuple(parents))
    return cells


@given(graphs())
@settings(max_examples=300)
def test_parents_come_first_and_data_is_left_only_when_nothing_of_it_can_be_done(cells: dict[str, Any]) -> None:
    ordered = by_data(cells)
    assert ordered == cells
    names = list(ordered)
    for place, (here, after) in enumerate(pairwise(names)):
        done = set(names[: place + 1])
        possible = [n for n in cells if n not in done and set(cells[n].parents) & cells.keys() <= done]
        assert after in possible
        warm = [n for n in possible if cells[n].data == cells[here].data]
        assert after == (warm or possible)[0], "of those that can be done, the first"


def test_a_transfer_takes_each_data_set_once(lab: Any) -> None:
    """A search on one data set and arms on another: the source in one go, then the target."""
    plan = lab.plan(seeds=2, transfer__0__arms=["winning", "random", "preserved"])
    classes = [[cell.network.classes for cell in plan.cells.values() if cell.seed == seed] for seed in (0, 1)]
    for found in classes:
        assert len([*groupby(found)]) <= 3
        assert {5, 10} == set(found)
