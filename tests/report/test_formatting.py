"""How numbers are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oneticket.report import cost_table, costs, summary, summary_table
from oneticket.report.formatting import comparison, density, difference, interval, percent, quantity, spread
from oneticket.report.groups import at
from oneticket.report.tables import Comparison
from oneticket.statistics import Difference, Interval

Row = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.88634), "88.63"),
        (spread(0.88634, 0.00219), "88.63 ± 0.22"),
        (spread(0.88634, None), "88.63"),
        (interval(Interval(0.9, 0.91)), "[90.00, 91.00]"),
        (interval(None), "—"),
        (density(0.05497558), "5.50"),
        (density(1.0), "100"),
        (density(0.0012379), "0.124"),
        (difference(Difference(6, 0.0213, Interval(-0.001, 0.04), 0.05)), "+2.13 [−0.10, +4.00]"),
        (difference(Difference(6, -0.00001, Interval(-0.02, 0.00001), 0.05)), "0.00 [−2.00, 0.00]"),
        (difference(Difference(1, -0.01, None, None)), "−1.00"),
        (comparison(None), "—"),
        (comparison(Comparison(Difference(6, 0.0213, Interval(0.001, 0.04), 0.02), 0.04)), "* +2.13 [+0.10, +4.00]"),
        (comparison(Comparison(Difference(6, 0.0213, Interval(0.001, 0.04), 0.02), 0.06)), "+2.13 [+0.10, +4.00]"),
        (comparison(Comparison(Difference(1, -0.01, None, None), None)), "−1.00"),
        (quantity(9.6e11), "960 G"),
        (quantity(1.234e12), "1.23 T"),
        (quantity(12.34), "12.3"),
        (quantity(0), "0"),
        (at("fashion", "sgd"), "fashion@sgd"),
        (at("", ""), "—"),
    ],
)
def test_a_number_is_written_as_a_paper_writes_it(text: str, expected: str) -> None:
    assert text == expected


def test_columns_that_say_nothing_are_left_out(make_table: Callable[..., list[Row]]) -> None:
    one = summary_table(summary(make_table(targets=["fashion@sgd"])))
    assert one.header == ("source", "weights %", "arm", "n", "accuracy %", "95 % interval", "vs dense", "vs random")
    two = summary_table(summary(make_table(rescales=["none", "layer"])))
    assert {"target", "rescale"} <= set(two.header)
    assert not {"experiment", "model", "effective %"} & set(two.header)


@pytest.mark.parametrize(
    ("asked", "met", "is_shown"),
    [
        (0.05, 0.0563, True), (0.1, 0.107, True), (0.05, 0.0504, False), (0.01, 0.00999, False), (0.24, 0.237, False),
        (0.0467, 0.0466, True), (0.0467, 0.04673, False), (0.054976, 0.05497558, False), (1.0, 1.0, False),
    ],
)  # fmt: skip
def test_what_was_asked_stands_beside_what_was_met_where_they_differ(
    make_table: Callable[..., list[Row]], asked: float, met: float, is_shown: bool
) -> None:
    table = [row | {"density_asked": asked, "density": met} for row in make_table(densities=[0.21])]
    arms = [row for row in table if row["arm"] == "winning"]
    shown = summary_table(summary(arms))
    assert ("asked %" in shown.header) == is_shown
    if is_shown:
        place = shown.header.index("asked %")
        assert shown.header[place + 1] == "weights %"
        assert {line[place : place + 2] for line in shown.lines} == {(density(asked), density(met))}


def test_cells_are_the_summary_in_its_order(rows: list[Row]) -> None:
    found = summary(rows)
    table = summary_table(found)
    assert len(table.lines) == len(found)
    assert {len(cells) for cells in table.lines} == {len(table.header)} == {len(table.numeric)}
    column = table.header.index("accuracy %")
    for cells, row in zip(table.lines, found, strict=True):
        assert row.accuracy.deviation is not None
        assert cells[column] == f"{100 * row.accuracy.mean:.2f} ± {100 * row.accuracy.deviation:.2f}"


def test_costs_show_their_range_where_they_differ(rows: list[Row]) -> None:
    table = cost_table(costs(rows))
    (winning,) = [dict(zip(table.header, cells, strict=True)) for cells in table.lines if cells[0] == "winning"]
    assert winning["networks"] == "108"
    assert winning["training FLOPs"] == "960 G"
    assert winning["mask-aware FLOPs"] == "90.6 G (17.3 G – 202 G)"


def test_a_cost_nobody_recorded_has_no_column(rows: list[Row]) -> None:
    table = cost_table(costs([row | {"seconds": None} for row in rows]))
    assert "seconds" not in table.header
