"""The share of the own ticket's gain and the matching density, in the summary and in its CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from oneticket.report import SummaryRow, summary
from oneticket.report.writers import summary_csv
from oneticket.statistics import smallest_matching_density, transfer_efficiency

Row = dict[str, Any]
Only = Callable[..., SummaryRow]


def seeds(rows: list[Row], **where: Any) -> dict[int, float]:
    kept = [row for row in rows if all(row[column] == value for column, value in where.items())]
    return {row["seed"]: row["test_accuracy"] for row in kept}


def test_a_transferred_ticket_keeps_a_part_of_the_gain_of_the_own_one(only: Only, rows: list[Row]) -> None:
    place = {"target": "fashion", "density_asked": 0.018}
    found = only(summary(rows), arm="winning", source="mnist", **place).efficiency
    trio = [
        seeds(rows, arm=arm, source=source, **place)
        for arm, source in (("winning", "mnist"), ("own", "fashion"), ("random", "mnist"))
    ]
    assert found == transfer_efficiency(*trio)
    assert found is not None
    assert found.value is not None
    assert 0.5 < found.value < 1.2
    assert only(summary(rows), arm="winning", source="fashion", **place).efficiency is None
    assert only(summary(rows), arm="random", source="mnist", **place).efficiency is None


def test_without_the_arm_own_the_ticket_whose_source_is_the_target_stands_for_it(only: Only, rows: list[Row]) -> None:
    place = {"target": "fashion", "density_asked": 0.018}
    kept = [row for row in rows if row["arm"] != "own"]
    found = only(summary(kept), arm="preserved", source="mnist", **place).efficiency
    home = seeds(rows, arm="winning", source="fashion", **place)
    assert found == transfer_efficiency(
        seeds(rows, arm="preserved", source="mnist", **place), home, seeds(rows, arm="random", source="mnist", **place)
    )


def test_the_matching_density_is_that_of_the_line(only: Only, rows: list[Row]) -> None:
    better = {"winning": 0.006}
    rows = [row | {"test_accuracy": row["test_accuracy"] + better.get(row["arm"], 0)} for row in rows]
    dense = seeds(rows, arm="dense", target="mnist")
    line = {"arm": "winning", "source": "fashion", "target": "mnist"}
    arms = {density: seeds(rows, density_asked=density, **line) for density in (0.21, 0.055, 0.018)}
    expected = smallest_matching_density(arms, dense)
    assert expected is not None
    found = summary(rows)
    assert {only(found, density_asked=density, **line).matching_density for density in arms} == {expected}
    assert only(found, arm="dense", target="mnist").matching_density is None
    assert only(found, arm="random", source="fashion", target="mnist", density_asked=0.018).matching_density is None


def test_the_csv_has_both_at_its_end(rows: list[Row]) -> None:
    short = summary(rows)
    lines = list(csv.DictReader(io.StringIO(summary_csv(short))))
    columns = ["transfer_efficiency", "transfer_efficiency_low_95", "transfer_efficiency_high_95", "matching_density"]
    assert list(lines[0])[-4:] == columns
    for line, row in zip(lines, short, strict=True):
        decided = row.efficiency is not None and row.efficiency.decided
        assert bool(line["transfer_efficiency"]) is decided
        assert line["matching_density"] == ("" if row.matching_density is None else str(row.matching_density))


def test_rounding_widens_the_share() -> None:
    """At each end R of the interval, gain − R · possible just differs from zero in a t test with its rounding."""
    counts = ([333, 331, 330], [340, 342, 341], [300, 303, 301])
    source, own, random = ({s: k / 355 for s, k in enumerate(row)} for row in counts)
    found = transfer_efficiency(source, own, random, images=355)
    assert found is not None
    assert found.interval is not None
    x, y = (np.array(counts[i]) - np.array(counts[2]) for i in (0, 1))
    for ratio in (found.interval.low, found.interval.high):
        # source − R own − (1 − R) random, each rounded by itself
        variance = np.var(x - ratio * y, ddof=1) + (1 + ratio**2 + (1 - ratio) ** 2) / 12
        t = np.mean(x - ratio * y) / math.sqrt(variance / 3)
        assert abs(t) == pytest.approx(stats.t.ppf(0.975, 2), rel=1e-9)
