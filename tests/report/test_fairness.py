"""Fairness: the sentence about steps says what the rows have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneticket.report import fairness, write_report

Row = dict[str, Any]


@pytest.fixture
def table(make_table: Callable[..., list[Row]]) -> list[Row]:
    return make_table(targets=("fashion@sgd", "mnist@sgd"), seeds=2, densities=(0.2, 0.05))


def with_(rows: list[Row], **columns: Callable[[Row], object]) -> list[Row]:
    return [row | {name: value(row) for name, value in columns.items()} for row in rows]


def test_equal_steps_are_one_number_for_all_targets(table: list[Row]) -> None:
    (sentence,) = fairness(with_(table, own_steps=lambda _: 1875))
    assert sentence.startswith("On fashion@sgd, mnist@sgd each network had 1875 steps of its own; ")


@pytest.mark.slow
def test_others_are_named_with_theirs(table: list[Row], tmp_path: Path) -> None:
    (sentence,) = fairness(table)
    assert "other numbers of steps of their own: 2344 own, winning; 1875 dense, preserved, random;" in sentence
    page = write_report(table, tmp_path).read_text("utf-8")
    assert sentence in page
    longer = with_(table, own_steps=lambda row: 2000 if row["target"] == "mnist" else row["own_steps"])
    assert [line.split()[1] for line in fairness(longer)] == ["fashion@sgd", "mnist@sgd"]


def test_totals_are_compared_at_each_density(table: list[Row]) -> None:
    """The dense network beside the sparsest."""

    def steps(row: Row) -> int:
        return {"dense": 100, "random": 50 if row["density"] > 0.1 else 100, "winning": 80}.get(row["arm"], 100)

    level = with_(table, budget=lambda _: "equal-search", total_steps=lambda _: 7)
    assert fairness(level) == [
        "On fashion@sgd, mnist@sgd each network had as many steps as the others, its search included."
    ]
    (sentence,) = fairness(with_(level, total_steps=steps))
    assert "by a factor of at most 2 (own most, random least, at 20" in sentence
    (sentence,) = fairness(with_(table, budget=lambda _: "equal-flops", total_masked_flops=lambda r: steps(r) * 10**9))
    assert "mask-aware FLOPs" in sentence


def test_tables_of_earlier_versions_say_nothing(table: list[Row]) -> None:
    assert fairness(with_(table, own_steps=lambda _: None)) == []
    assert fairness([]) == []
