"""What networks are compared with: the same place with one word changed, and nothing that only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from oneticket.errors import InputError
from oneticket.report import SummaryRow, summary
from oneticket.report.baselines import Baseline

Row = dict[str, Any]
Only = Callable[..., SummaryRow]


def differences(rows: list[Row], first: dict[str, Any], second: dict[str, Any]) -> np.ndarray[Any, Any]:
    def by_seed(where: dict[str, Any]) -> list[float]:
        kept = [row for row in rows if all(row[key] == value for key, value in where.items())]
        return [row["test_accuracy"] for row in sorted(kept, key=lambda row: row["seed"])]

    a, b = by_seed(first), by_seed(second)
    assert len(a) == len(b) == 6
    return np.array(a) - np.array(b)


@pytest.mark.parametrize(
    ("word", "here", "there"),
    [
        ("winning", {"arm": "random", "source": "mnist"}, {"arm": "winning", "source": "mnist"}),
        ("arm=winning", {"arm": "preserved", "source": "fashion"}, {"arm": "winning", "source": "fashion"}),
        ("rescale=none", {"arm": "random", "rescale": "layer", "source": "mnist"}, {"rescale": "none"}),
        ("source=mnist@sgd", {"arm": "winning", "source": "fashion"}, {"source": "mnist"}),
    ],
)
def test_one_word_of_the_place_is_changed_and_the_rest_stays(
    only: Only, make_table: Callable[..., list[Row]], word: str, here: dict[str, Any], there: dict[str, Any]
) -> None:
    rows = make_table(targets=["fashion@sgd"], rescales=["none", "layer"])
    place = {"target": "fashion", "density_asked": 0.055, "rescale": "none"} | here
    found = only(summary(rows, [word]), **place)
    (versus,) = found.versus.values()
    assert versus is not None
    expected = differences(rows, place, place | there)
    assert versus.difference.mean == pytest.approx(expected.mean(), abs=1e-15)
    assert versus.difference.p == pytest.approx(stats.ttest_1samp(expected, 0).pvalue, rel=1e-6)


def test_what_is_the_baseline_itself_is_not_compared(make_table: Callable[..., list[Row]]) -> None:
    for word in ("winning", "rescale=none", "source=mnist@sgd"):
        found = summary(make_table(targets=["fashion@sgd"], rescales=["none", "layer"]), [word])
        (baseline,) = found[0].versus
        assert all(row.versus[baseline] is None for row in found if baseline.is_of(row.group))
        assert any(row.versus[baseline] is not None for row in found)


def test_an_own_ticket_is_compared_with_the_arm_of_the_one_source_and_with_none_of_several(
    only: Only,
    make_table: Callable[..., list[Row]],
) -> None:
    for sources, there in ((["mnist@sgd"], True), (["mnist@sgd", "fashion-low@adam"], False)):
        rows = make_table(targets=["fashion@sgd"], sources=sources)
        (versus,) = only(summary(rows, ["winning"]), arm="own", density_asked=0.21).versus.values()
        assert (versus is not None) is there


def test_the_arm_of_another_source_never_stands_in(only: Only, make_table: Callable[..., list[Row]]) -> None:
    rows = make_table(targets=["fashion@sgd"], densities=[0.055])
    lacking = [row for row in rows if (row["arm"], row["source"]) != ("winning", "mnist")]
    for source, there in (("mnist", False), ("fashion", True)):
        (versus,) = only(summary(lacking, ["winning"]), arm="preserved", source=source).versus.values()
        assert (versus is not None) is there


def test_a_dense_network_is_compared_where_there_is_one_density_and_not_where_there_are_several(
    only: Only,
    make_table: Callable[..., list[Row]],
) -> None:
    for densities, there in (([0.055], True), ([0.21, 0.055], False)):
        rows = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], densities=densities)
        (versus,) = only(summary(rows, ["winning"]), arm="dense").versus.values()
        assert (versus is not None) is there


def test_a_sparse_network_is_never_compared_with_one_of_another_density(
    only: Only, make_table: Callable[..., list[Row]]
) -> None:
    rows = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"])
    lacking = [row for row in rows if (row["arm"], row["density_asked"]) not in {("random", 0.21), ("random", 0.018)}]
    found = summary(lacking, ["random"])
    for density, there in ((0.21, False), (0.055, True), (0.018, False)):
        (versus,) = only(found, arm="winning", density_asked=density).versus.values()
        assert (versus is not None) is there


def test_a_rescaled_network_is_not_compared_with_a_sparse_one_that_is_not(
    only: Only, make_table: Callable[..., list[Row]]
) -> None:
    rows = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], rescales=["none", "layer"])
    lacking = [row for row in rows if (row["arm"], row["rescale"]) != ("random", "layer")]
    (versus,) = only(summary(lacking, ["random"]), arm="winning", rescale="layer", density_asked=0.21).versus.values()
    assert versus is None


def test_all_comparisons_of_a_target_with_a_baseline_are_a_family_of_holm(rows: list[Row]) -> None:
    found = [row for row in summary(rows, ["random"]) if row.group.section.target == "fashion"]
    versus = [v for row in found for v in row.versus.values() if v is not None]
    compared = {(row.group.arm, row.group.source, row.group.density_asked) for row in found if any(row.versus.values())}
    assert len(versus) == len(compared) == 3 * (2 + 2 + 1)  # densities × (winning and preserved of both sources, own)
    p = [v.difference.p for v in versus]
    adjusted = multipletests(p, method="holm")[1]
    assert [v.holm for v in versus] == pytest.approx(list(adjusted))
    assert max(adjusted / np.array(p)) == pytest.approx(len(versus))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("winnng", "did you mean 'winning'"),
        ("rescal=none", "did you mean 'rescale'"),
        ("rescale=non", "did you mean 'none'"),
        ("source=mnist", "did you mean 'mnist@sgd'"),
    ],
)
def test_a_word_that_is_not_there_is_refused_with_the_nearest(rows: list[Row], word: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        summary(rows, [word])
    with pytest.raises(InputError, match="twice"):
        summary(rows, ["winning", "winning"])


def test_labels_tell_the_axis() -> None:
    assert [Baseline(*pair).label for pair in (("arm", "own"), ("rescale", "none"), ("source", "a@b"))] == [
        "own",
        "rescale none",
        "from a@b",
    ]
