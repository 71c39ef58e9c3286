"""The summary holds what scipy finds in the same rows, and refuses rows it could not average."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from oneticket.errors import InputError
from oneticket.report import SummaryRow, costs, summary
from oneticket.report.baselines import Baseline
from oneticket.report.tables import REQUIRED, Comparison

Row = dict[str, Any]
Only = Callable[..., SummaryRow]
DENSE, RANDOM = Baseline("arm", "dense"), Baseline("arm", "random")


def accuracies(rows: list[Row], **where: Any) -> dict[int, float]:
    return {
        row["seed"]: row["test_accuracy"]
        for row in rows
        if all(row[column] == value for column, value in where.items())
    }


def versus(row: SummaryRow, baseline: Baseline) -> Comparison:
    found = row.versus[baseline]
    assert found is not None
    return found


PLACE = {"target": "fashion", "source": "mnist", "density_asked": 0.018}


def test_there_is_one_row_for_each_arm_source_target_and_density(rows: list[Row]) -> None:
    found = summary(rows)
    # per target: dense, three arms from two sources, and its own ticket, at three densities
    assert len(found) == 3 * (1 + 3 * (3 * 2 + 1))
    assert len({row.group for row in found}) == len(found)
    assert {row.accuracy.n for row in found} == {6}


def test_mean_deviation_and_interval_are_those_of_scipy(only: Only, rows: list[Row]) -> None:
    sample = only(summary(rows), arm="winning", **PLACE).accuracy
    values = list(accuracies(rows, arm="winning", **PLACE).values())
    assert sample.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert sample.deviation == pytest.approx(np.std(values, ddof=1), rel=1e-9)
    assert sample.interval is not None
    oracle = stats.t.interval(0.95, 5, np.mean(values), stats.sem(values))
    assert (sample.interval.low, sample.interval.high) == pytest.approx(oracle, rel=1e-9)


@pytest.mark.parametrize("baseline", ["dense", "random"])
def test_differences_are_paired_by_seed_with_the_network_of_the_same_panel(
    only: Only, rows: list[Row], baseline: str
) -> None:
    shuffled = random.Random(0).sample(rows, len(rows))
    found = versus(only(summary(shuffled), arm="preserved", **PLACE), Baseline("arm", baseline)).difference
    place = {"target": "fashion", "arm": "dense"} if baseline == "dense" else {"arm": "random", **PLACE}
    first, second = accuracies(rows, arm="preserved", **PLACE), accuracies(rows, **place)
    oracle = stats.ttest_rel([first[s] for s in range(6)], [second[s] for s in range(6)])
    assert found.n == 6
    assert found.mean == pytest.approx(np.mean([first[s] - second[s] for s in range(6)]))
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-6)
    interval = oracle.confidence_interval()
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))


def test_only_seeds_that_both_have_are_paired(only: Only, rows: list[Row]) -> None:
    kept = [row for row in rows if row["arm"] != "random" or row["seed"] in (1, 4)]
    found = only(summary(kept), arm="winning", **PLACE)
    assert found.accuracy.n == 6
    assert versus(found, RANDOM).difference.n == 2
    assert versus(found, DENSE).difference.n == 6


def test_an_arm_is_not_compared_with_itself_nor_with_what_is_not_there(
    only: Only, make_table: Callable[..., list[Row]]
) -> None:
    found = summary(make_table(targets=["fashion-low@adam"]))
    assert only(found, arm="dense").versus[DENSE] is None
    assert only(found, arm="random", source="mnist", density_asked=0.21).versus[RANDOM] is None
    # no random arm has fashion-low as its source
    assert only(found, arm="own", density_asked=0.21).versus[RANDOM] is None


def test_random_is_taken_at_the_same_rescaling_and_dense_serves_all(
    only: Only, make_table: Callable[..., list[Row]]
) -> None:
    rows = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], densities=[0.018], rescales=["none", "layer"])
    found = only(summary(rows), arm="winning", rescale="layer")
    first = accuracies(rows, arm="winning", rescale="layer")
    for baseline, second in (
        (RANDOM, accuracies(rows, arm="random", rescale="layer")),
        (DENSE, accuracies(rows, arm="dense")),
    ):
        assert versus(found, baseline).difference.mean == pytest.approx(
            np.mean([first[s] - second[s] for s in range(6)])
        )


def test_the_order_of_the_rows_changes_nothing(rows: list[Row]) -> None:
    assert summary(random.Random(1).sample(rows, len(rows))) == summary(rows)
    assert costs(random.Random(1).sample(rows, len(rows))) == costs(rows)


def test_densities_fall_and_arms_keep_their_order(rows: list[Row]) -> None:
    block = [row.group for row in summary(rows) if row.group.target == "fashion"]
    assert [g.arm for g in block[:5]] == ["dense", "own", "winning", "preserved", "random"]
    assert list(dict.fromkeys(g.density_asked for g in block)) == [1.0, 0.21, 0.055, 0.018]


def test_a_network_without_a_test_accuracy_is_not_counted(rows: list[Row]) -> None:
    kept = [row | {"test_accuracy": None} if row["seed"] == 0 else row for row in rows]
    assert {row.accuracy.n for row in summary(kept)} == {5}


def test_a_network_listed_twice_counts_once(rows: list[Row]) -> None:
    assert summary(rows + rows[:40]) == summary(rows)


def test_costs_are_means_over_what_is_known(rows: list[Row]) -> None:
    kept = [row | {"seconds": None, "masked_flops": 4.0 if row["seed"] else 1.0} for row in rows]
    (found,) = [row for row in costs(kept) if row.arm == "winning"]
    masked = found.costs["masked_flops"]
    assert found.costs["seconds"] is None
    assert masked is not None
    assert (found.n, masked.n, masked.mean, masked.low, masked.high) == (108, 108, 3.5, 1.0, 4.0)


def test_nothing_to_report_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        summary([])


def test_the_size_of_the_test_split_widens_what_it_cannot_resolve(
    only: Only, make_table: Callable[..., list[Row]]
) -> None:
    """Two seeds that differ by the same: without the size they have no interval, with it a wide one and no star."""
    rows = make_table(targets=["fashion@sgd"], sources=["fashion@sgd"], arms=["winning", "random"], densities=[0.055])
    level = {"dense": 0.9, "winning": 0.85, "random": 0.84}
    kept = [row | {"test_accuracy": level[row["arm"]]} for row in rows if row["seed"] < 2]
    unknown = only(summary(kept), arm="winning")
    assert (unknown.images, unknown.accuracy.interval) == (None, None)
    assert (versus(unknown, DENSE).difference.interval, versus(unknown, DENSE).holm) == (None, None)
    # One row that says it is enough for its target.
    known = only(summary([kept[0] | {"test_images": 100}, *kept[1:]]), arm="winning")
    found = versus(known, DENSE)
    assert known.images == 100
    assert known.accuracy.interval is not None
    assert known.accuracy.interval.high <= 1
    assert found.difference.interval is not None
    assert found.difference.interval.low < -0.07 < found.difference.interval.high
    assert found.holm is not None
    assert found.holm > 0


def test_no_interval_of_accuracies_leaves_0_to_1(only: Only, make_table: Callable[..., list[Row]]) -> None:
    rows = make_table(targets=["fashion@sgd"], seeds=3)
    wide = [row | {"test_accuracy": (0.99, 0.5, 0.98)[row["seed"]]} for row in rows]
    assert {row.accuracy.interval.high for row in summary(wide) if row.accuracy.interval is not None} == {1.0}


@pytest.mark.parametrize("column", REQUIRED)
def test_a_table_without_a_column_is_refused(rows: list[Row], column: str) -> None:
    with pytest.raises(InputError, match=f"lacks the column '{column}'"):
        summary([{key: value for key, value in row.items() if key != column} for row in rows])


def test_two_networks_for_one_place_are_refused(rows: list[Row]) -> None:
    with pytest.raises(InputError, match="and another"):
        summary([*rows, rows[7] | {"cell": "another"}])


def test_rounds_of_which_no_density_was_asked_stay_apart(make_table: Callable[..., list[Row]]) -> None:
    found = summary([row | {"density_asked": None} for row in make_table(targets=["fashion@sgd"])])
    assert sorted({row.density for row in found if row.density is not None}) == [0.018, 0.055, 0.21, 1.0]
