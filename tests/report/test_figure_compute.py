"""Accuracy against compute: the totals, and which points no other beats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oneticket.report import summary
from oneticket.report.figure_compute import draw_compute, pareto_front, spent, totals

Row = dict[str, Any]
Make = Callable[..., list[Row]]
whole = st.integers(0, 9).map(float)


@given(st.lists(st.tuples(whole, whole), max_size=12))
def test_the_front_has_every_point_that_no_other_beats(points: list[tuple[float, float]]) -> None:
    def beaten(point: tuple[float, float]) -> bool:
        return any(o[0] <= point[0] and o[1] >= point[1] and o != point for o in points)

    assert {points[place] for place in pareto_front(points)} == {point for point in points if not beaten(point)}


def test_a_total_is_the_mean_over_seeds_and_needs_all_of_them(make_table: Make) -> None:
    table = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], arms=["winning"], densities=[0.1], seeds=2)
    winning = [row for row in table if row["arm"] == "winning"]
    winning[0]["total_masked_flops"], winning[1]["total_masked_flops"] = 1e12, 3e12
    found = spent(totals(table), summary(table))
    assert {point.row.group.arm: point.flops for point in found}["winning"] == 2e12
    winning[1]["total_masked_flops"] = None
    assert [point.row.group.arm for point in spent(totals(table), summary(table))] == ["dense"]


def test_the_axis_of_compute_is_logarithmic_and_holds_every_total(make_table: Make) -> None:
    table = make_table(targets=["fashion@sgd"], seeds=2)
    found = spent(totals(table), summary(table))
    axis = draw_compute(found).axes[0]
    left, right = axis.get_xlim()
    assert axis.get_xscale() == "log"
    assert left < min(point.flops for point in found) < max(point.flops for point in found) < right
