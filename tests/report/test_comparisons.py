"""The table of comparisons: each number from the formula, verdicts that follow from them, and its four forms."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from oneticket.errors import InputError
from oneticket.report import (
    OverImages,
    comparison_table,
    comparisons,
    reading,
    reading_of_images,
    spread_table,
    spreads,
    summary,
    tally,
)
from oneticket.report.comparisons import FIELDS, probability
from oneticket.report.writers import comparisons_csv, comparisons_latex
from oneticket.statistics import agreement, lost_between_seeds, two_way

Row = dict[str, Any]


@pytest.fixture
def small(make_table: Callable[..., list[Row]]) -> list[Row]:
    return make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], arms=["winning", "preserved", "random"])


def values(rows: list[Row], arm: str, density: float) -> np.ndarray:
    found = {row["seed"]: row["test_accuracy"] for row in rows if (row["arm"], row["density_asked"]) == (arm, density)}
    return np.array([found[seed] for seed in sorted(found)])


def test_each_number_is_that_of_scipy_and_statsmodels(small: list[Row]) -> None:
    found = comparisons(small, ["random"], margin=0.004)
    assert [row.group.arm for row in found] == ["winning", "preserved"] * 3
    equivalent = []
    for row in found:
        density = row.group.density_asked or 0
        pair = values(small, row.group.arm, density), values(small, "random", density)
        oracle, spread = stats.ttest_rel(*pair), float(np.std(pair[0] - pair[1], ddof=1))
        assert (row.n, row.estimate) == (6, pytest.approx(float(np.mean(pair[0] - pair[1]))))
        assert (row.low, row.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)), rel=1e-9)
        assert row.p == pytest.approx(oracle.pvalue, rel=1e-9)
        equivalent.append(ttost_paired(*pair, -0.004, 0.004)[0])
        assert row.p_equivalent == pytest.approx(equivalent[-1], rel=1e-6)
        flips = stats.permutation_test(pair, lambda a, b: np.mean(a - b), permutation_type="samples")
        assert row.p_sign_flip == pytest.approx(flips.pvalue, abs=1e-9)
        effect = TTestPower().solve_power(nobs=6, alpha=0.05 / 6, power=0.8)
        assert row.smallest_detectable == pytest.approx(spread * effect, rel=1e-5)
        assert row.seeds_needed is not None
        # NaN, where scipy's noncentral t gives NaN.
        assert not TTestPower().power(abs(row.estimate) / spread, row.seeds_needed, 0.05 / 6) < 0.8
    for field, ps in (("p_adjusted", [row.p for row in found]), ("p_equivalent_adjusted", equivalent)):
        adjusted = multipletests(ps, method="holm")[1]
        assert [getattr(row, field) for row in found] == pytest.approx(list(adjusted), rel=1e-6)


def test_a_verdict_follows_from_the_adjusted_p_values(small: list[Row]) -> None:
    found = comparisons(small, ["random"], margin=0.004)
    starred = {row.group for row in summary(small, ["random"]) for v in row.versus.values() if v and v.significant()}
    for row in found:
        assert row.p_adjusted is not None
        assert row.p_equivalent_adjusted is not None
        if row.group in starred:
            assert row.verdict == ("better" if row.estimate > 0 else "worse")
        else:
            assert row.verdict == ("equivalent" if row.p_equivalent_adjusted <= 0.05 else "not decided")
    assert {row.verdict for row in found} >= {"better"}
    wide = comparisons(small, ["random"], margin=0.9)
    assert {row.verdict for row in wide if row.group not in starred} <= {"equivalent"}


def test_one_seed_decides_nothing_and_two_equal_ones_neither(small: list[Row]) -> None:
    one = comparisons([row for row in small if row["seed"] == 0], ["random"])
    assert {(row.n, row.verdict, row.p, row.smallest_detectable, row.seeds_needed) for row in one} == {
        (1, "not decided", None, None, None)
    }
    level = {"dense": 0.9, "winning": 0.9, "preserved": 0.88, "random": 0.86}
    two = [row | {"test_accuracy": level[row["arm"]]} for row in small if row["seed"] < 2]
    for images in (None, 355):
        found = comparisons([row | {"test_images": images} for row in two], ["random"], margin=0.001)
        assert {row.verdict for row in found} == {"not decided"}
        assert all((row.low is None) is (images is None) for row in found)


def test_the_forms_say_the_same(small: list[Row]) -> None:
    found = comparisons(small)
    lines = list(csv.DictReader(io.StringIO(comparisons_csv(found))))
    assert list(lines[0])[-len(FIELDS) :] == list(FIELDS)
    assert [(float(line["p"]), line["verdict"], line["against"]) for line in lines] == [
        (row.p, row.verdict, row.baseline.value) for row in found
    ]
    table, latex = comparison_table(found), comparisons_latex(found, 0.002)
    assert len(table.lines) == len(found)
    assert table.header[:3] == ("weights %", "arm", "against")
    assert latex.count(r"\\") == len(found) + 1
    assert "<0.001" in {line[table.header.index("p (Holm)")] for line in table.lines}
    assert r"\textless{}0.001" in latex
    assert tally(found).startswith(f"{len(found)} comparisons: ")


def test_a_margin_that_is_none_is_refused(small: list[Row]) -> None:
    with pytest.raises(InputError, match="the margin is 0"):
        comparisons(small, margin=0)


@pytest.mark.parametrize(
    ("p", "text"), [(None, "—"), (1e-9, "<0.001"), (0.0314, "0.031"), (0.5, "0.50"), (1.0, "1.00")]
)
def test_a_p_value_as_text(p: float | None, text: str) -> None:
    assert probability(p) == text


def test_the_sentence_below_a_table_says_what_holds_there(small: list[Row]) -> None:
    known = [row | {"test_images": 10_000} for row in small]
    assert len(reading(summary(small))) == 2
    assert len(reading(summary(known))) == 1
    assert reading(summary([row for row in known if row["seed"] == 0])) == []


# -- over images ------------------------------------------------------------------------------------------------------
def bits(cell: str, images: int = 400) -> np.ndarray:
    return np.random.default_rng(int(cell[:8], 16)).random(images) < 0.9


def test_images_are_those_of_the_baselines_networks_by_seed(small: list[Row]) -> None:
    found = comparisons(small, ["random"], correct=bits)
    cells = {(row["arm"], row["density_asked"], row["seed"]): row["cell"] for row in small}
    for row in found:
        first, second = (
            np.stack([bits(cells[arm, row.group.density_asked, seed]) for seed in range(6)])
            for arm in (row.group.arm, "random")
        )
        expected, agreed = two_way(first, second), agreement(first, second)
        assert expected.interval is not None
        told = row.over_images
        assert (told.two_way_low, told.two_way_high) == (expected.interval.low, expected.interval.high)
        assert (told.p_two_way, told.noise_floor, told.p_mcnemar) == (expected.p, expected.floor, None)
        assert (told.agreement, told.kappa, told.lost) == (agreed.share, agreed.kappa, agreed.lost)
        assert told.lost_between_seeds == lost_between_seeds(second)
    assert [vars(a) | {"over_images": None} for a in found] == [
        vars(b) | {"over_images": None} for b in comparisons(small, ["random"])
    ], "nothing else changes"
    header = comparison_table(found).header
    assert "on other images" in header
    assert "p (McNemar)" not in header
    lines = list(csv.DictReader(io.StringIO(comparisons_csv(found))))
    assert [float(line["noise_floor"]) for line in lines] == [row.over_images.noise_floor for row in found]


def test_one_seed_has_mcnemars_p_and_still_decides_nothing(small: list[Row]) -> None:
    one = [row for row in small if row["seed"] == 0]
    found = comparisons(one, ["random"], correct=bits)
    cells = {(row["arm"], row["density_asked"]): row["cell"] for row in one}
    for row in found:
        first, second = (bits(cells[arm, row.group.density_asked]) for arm in (row.group.arm, "random"))
        only = [int((first & ~second).sum()), int((second & ~first).sum())]
        assert row.over_images.p_mcnemar == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
        assert (row.over_images.two_way_low, row.verdict) == (None, "not decided")
    assert {"p (McNemar)", "floor"} <= set(comparison_table(found).header)
    assert any(
        "no single seed can say" in told for told in reading_of_images([r.over_images for r in found], asked=True)
    )


def test_an_arm_is_not_judged_by_those_of_its_networks_that_tell_their_images(small: list[Row]) -> None:
    silent = next(row["cell"] for row in small if row["arm"] == "winning" and row["seed"] == 3)
    found = comparisons(small, ["random"], correct=lambda cell: None if cell == silent else bits(cell))
    unknown = [row for row in found if row.over_images == OverImages()]
    assert [(row.group.arm, row.group.density_asked) for row in unknown] == [("winning", 0.21)]
    (_, told) = reading_of_images([row.over_images for row in found], asked=True)
    assert told.startswith("1 of 6 comparisons lack")
    assert reading_of_images([OverImages()], asked=False) == []
    other = comparisons(small, ["random"], correct=lambda cell: bits(cell, 399 if cell == silent else 400))
    assert sum(row.over_images == OverImages() for row in other) == 1, "other images can't be compared"


# -- spreads ----------------------------------------------------------------------------------------------------------
def test_the_spread_of_an_arm_is_pooled_over_its_places(small: list[Row]) -> None:
    found = {row.arm: row for row in spreads(small, ["random"], 0.005)}
    differences = [values(small, "winning", d) - values(small, "random", d) for d in (0.21, 0.055, 0.018)]
    pooled = float(np.sqrt(np.mean([np.var(d, ddof=1) for d in differences])))
    assert found["winning"].places == 3
    assert found["winning"].spread == pytest.approx(pooled, rel=1e-9)
    effect = TTestPower().solve_power(nobs=6, alpha=0.05, power=0.8)
    assert found["winning"].shown[1] == pytest.approx(pooled * effect, rel=1e-5)
    table = spread_table(list(found.values()), 0.005)
    assert table.header[4] == "seeds for 0.50"
    assert len(table.lines) == len(found)
    assert spreads([row for row in small if row["seed"] == 0], ["random"]) == []
