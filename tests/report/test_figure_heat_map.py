"""The heat map: the tickets of each source on each target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oneticket.report import summary
from oneticket.report.figure_heat_map import draw_heat_map, heat_map
from oneticket.report.formatting import MINUS

Row = dict[str, Any]
Make = Callable[..., list[Row]]


def test_a_field_is_the_difference_at_the_lowest_density(make_table: Make) -> None:
    rows = summary(make_table(arms=["winning", "random"]))
    found = heat_map(rows)
    assert found is not None
    assert (found.density, found.baseline.label) == (0.018, "random")
    assert found.sources == ["fashion@sgd", "mnist@sgd"]
    assert set(found.targets) == {"fashion@sgd", "mnist@sgd", "fashion-low@adam"}
    words = [text.get_text() for text in draw_heat_map(found).axes[0].texts]
    assert len(words) == 6
    for row in found.fields.values():
        comparison = row.versus[found.baseline]
        assert comparison is not None
        told = f"{100 * comparison.difference.mean:+.2f}".replace("-", MINUS)
        assert any(told in word for word in words)


def test_a_field_without_a_comparison_is_hatched(make_table: Make) -> None:
    table = [
        row
        for row in make_table(arms=["winning", "random"], densities=[0.018])
        if (row["source"], row["target"], row["arm"]) != ("mnist", "fashion", "random")
    ]
    found = heat_map(summary(table))
    assert found is not None
    assert sum(patch.get_hatch() is not None for patch in draw_heat_map(found).axes[0].patches) == 1


def test_one_source_or_one_target_is_no_map(make_table: Make) -> None:
    assert heat_map(summary(make_table(sources=["mnist@sgd"]))) is None
    assert heat_map(summary(make_table(targets=["mnist@sgd"]))) is None
    assert heat_map([]) is None
