"""Learning rates: validation chooses, over all seeds of an arm, and the test accuracy does not."""

from __future__ import annotations

from typing import Any

from oneticket.lab.results.table import best_settings

KEYS = ("experiment", "model", "source", "source_recipe", "target", "target_recipe", "arm", "rescale", "density_asked")


def row(lr: float | None, seed: int, val: float, **more: Any) -> dict[str, Any]:
    return dict.fromkeys(KEYS, "x") | {"lr": lr, "seed": seed, "val_accuracy": val} | more


def test_the_rate_with_the_best_mean_over_the_seeds_is_kept() -> None:
    rows = [row(0.1, 0, 0.9), row(0.1, 1, 0.5), row(0.3, 0, 0.8), row(0.3, 1, 0.7)]
    assert best_settings(rows) == rows[2:]


def test_the_test_accuracy_plays_no_part() -> None:
    rows = [row(0.1, 0, 0.6, test_accuracy=0.1), row(0.3, 0, 0.5, test_accuracy=0.9)]
    assert best_settings(rows) == rows[:1]


def test_every_arm_chooses_for_itself_and_rows_without_rates_stay() -> None:
    rows = [row(0.1, 0, 0.9), row(0.3, 0, 0.8), row(0.1, 0, 0.1, arm="y"), row(0.3, 0, 0.2, arm="y"), row(None, 0, 0.0)]
    assert best_settings(rows) == [rows[0], rows[3], rows[4]]


def test_of_equal_rates_the_lowest_is_kept_and_unfinished_ones_are_left_out() -> None:
    assert [r["lr"] for r in best_settings([row(0.3, 0, 0.5), row(0.1, 0, 0.5)])] == [0.1]
    rows = [row(0.1, 0, 0.5), row(0.1, 1, 0.5), row(0.3, 0, 0.9)]
    assert best_settings(rows) == rows[:2]


def test_a_row_filled_by_sources_of_other_names_is_another_arm() -> None:
    rows = [row(0.1, 0, 0.5, source="a"), row(0.3, 0, 0.9, source="b")]
    assert best_settings(rows) == rows
