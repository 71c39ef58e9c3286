"""Tuning in the report: what was chosen, where a grid does not decide, and arms that are one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneticket.report import alike, at_edge, fairness, tuning_table, write_report

Row = dict[str, Any]


@pytest.fixture
def rows(make_table: Callable[..., list[Row]]) -> list[Row]:
    table = make_table(targets=("fashion@sgd", "mnist@sgd"), seeds=2, densities=(0.05,))
    chosen = {"dense": ("lr=0.1", ""), "winning": ("lr=0.4", "lr")}
    settings = [chosen.get(row["arm"], ("lr=0.05, cut=0.3", "lr, cut")) for row in table]
    return [
        row | {"tuned": text, "trials": 4, "trials_at_edge": edges}
        for row, (text, edges) in zip(table, settings, strict=True)
    ]


def test_one_line_for_all_seeds(rows: list[Row]) -> None:
    table = tuning_table(rows)
    assert table is not None
    assert len(table.lines) == len({tuple(row[k] for k in ("target", "source", "arm", "density")) for row in rows})
    assert table.header[-3:] == ("chosen", "trials", "at the edge")
    assert ("lr=0.4", "4", "lr") in {line[-3:] for line in table.lines}
    assert tuning_table([{k: v for k, v in row.items() if k not in ("tuned", "trials")} for row in rows]) is None


def test_best_values_at_the_edge_decide_nothing(rows: list[Row]) -> None:
    named = "own, preserved, random"
    assert sorted(at_edge(rows)) == [
        f"not decided: the best cut of {named} on fashion@sgd, mnist@sgd lies at the edge of its grid",
        "not decided: the best lr of own, winning, preserved, random on fashion@sgd, mnist@sgd "
        "lies at the edge of its grid",
    ]
    assert at_edge([row | {"trials_at_edge": ""} for row in rows]) == []


def test_how_many_trials_each_arm_had(rows: list[Row]) -> None:
    place = "On fashion@sgd, mnist@sgd"
    assert fairness(rows)[1] == f"{place} each arm had 4 trials, from which validation chose."
    others = [row | {"trials": 2 if row["arm"] in ("dense", "random") else 4} for row in rows]
    assert fairness(others)[1] == (
        f"{place} arms had other numbers of trials, from which validation chose: 4 own, winning, preserved; "
        "2 dense, random."
    )
    assert len(fairness([row | {"trials": None} for row in rows])) == 1


def test_arms_with_the_same_results_to_the_last_digit(rows: list[Row]) -> None:
    assert alike(rows) == []
    losses = {row["seed"]: row for row in rows if row["arm"] == "preserved" and row["target"] == "mnist"}
    same = ("test_accuracy", "val_accuracy", "test_loss")

    def copied(row: Row) -> Row:
        known = losses[row["seed"]]
        return row | {key: known[key] for key in same}

    equal = [copied(row) if row["arm"] in ("random", "preserved") and row["target"] == "mnist" else row for row in rows]
    assert alike(equal) == [
        "preserved and random on mnist@sgd have the same results to the last digit in every seed: read them as one arm"
    ]
    one_cell = [row | {"cell": row["seed"]} for row in equal]
    assert alike(one_cell) == []
    assert alike([row | {"cell": f"line {number}"} for number, row in enumerate(equal, start=2)]) == []
    assert alike([row | {"test_loss": None} for row in equal]) == []
    assert alike([row for row in equal if row["seed"] == 0]) == []  # a single seed may be chance


def test_the_page_has_the_table_folded(rows: list[Row], tmp_path: Path) -> None:
    page = write_report(rows, tmp_path).read_text("utf-8")
    assert "<h2>Chosen by validation</h2>" in page
    assert "lr=0.05, cut=0.3" in page
    assert "each arm had 4 trials" in page
