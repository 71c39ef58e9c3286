"""Statistics over images: against scipy, statsmodels, sums of squares written out, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as oracle_mcnemar
from statsmodels.stats.inter_rater import cohens_kappa

from oneticket.errors import InputError
from oneticket.statistics import (
    agreement,
    interquartile_mean,
    lost_between_seeds,
    mcnemar,
    paired_difference,
    two_way,
)
from oneticket.statistics.simulation import simulate_images


def networks(random: np.random.Generator, n: int, images: int, accuracy: float = 0.8) -> np.ndarray:
    return random.random((n, images)) < accuracy


def mean_squares(d: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, images and rest, cell by cell from the textbook's sums."""
    n, images = d.shape
    grand = d.sum() / d.size
    seeds = sum(images * (d[s].sum() / images - grand) ** 2 for s in range(n)) / (n - 1)
    pictures = sum(n * (d[:, i].sum() / n - grand) ** 2 for i in range(images)) / (images - 1)
    total = sum((d[s, i] - grand) ** 2 for s in range(n) for i in range(images))
    return seeds, pictures, (total - (n - 1) * seeds - (images - 1) * pictures) / ((n - 1) * (images - 1))


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_the_two_way_error_is_that_of_the_mean_squares(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    hard = random.random(40) < 0.3
    first, second = networks(random, n, 40) & ~(hard * (random.random((n, 40)) < 0.9)), networks(random, n, 40)
    found, d = two_way(first, second), first.astype(float) - second
    seeds, images, rest = mean_squares(d)
    seeds += 40 / (6 * 40**2)
    added = max(images - rest, 0.0)
    freedom = (seeds + added) ** 2 / (seeds**2 / (n - 1) + added**2 / 39)
    error = math.sqrt(max(seeds + added, images) / (n * 40))
    assert (found.n, found.images, found.mean) == (n, 40, pytest.approx(d.mean(), abs=1e-12))
    assert (found.error, found.freedom) == (pytest.approx(error, rel=1e-9), pytest.approx(freedom, rel=1e-9))
    assert found.interval is not None
    expected = stats.t.interval(0.95, freedom, d.mean(), error)
    assert (found.interval.low, found.interval.high) == pytest.approx(expected, rel=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, freedom), rel=1e-9)
    assert found.floor == pytest.approx(stats.norm.ppf(0.975) * stats.sem(d.mean(0)), rel=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 30), st.floats(0.05, 0.95))
@settings(max_examples=25)
def test_its_error_is_never_below_that_over_seeds_or_images_alone(seed: int, n: int, size: int, a: float) -> None:
    random = np.random.default_rng(seed)
    first, second = networks(random, n, size, a), networks(random, n, size, a)
    found = two_way(first, second)
    over_seeds = paired_difference(dict(enumerate(first.mean(1))), dict(enumerate(second.mean(1))), images=size)
    assert over_seeds is not None
    assert over_seeds.spread is not None
    assert found.error is not None
    assert found.error >= over_seeds.spread / math.sqrt(n) * (1 - 1e-9)
    assert found.error >= found.floor / stats.norm.ppf(0.975) * (1 - 1e-9)


def test_equal_networks_have_an_interval_of_some_width_and_one_seed_has_none() -> None:
    same = np.ones((3, 100), dtype=bool)
    found = two_way(same, same)
    assert found.interval is not None
    assert found.interval.low < 0 < found.interval.high
    assert found.p == 1
    one = two_way(same[:1], ~same[:1])
    assert (one.n, one.mean, one.interval, one.p, one.error, one.floor) == (1, 1.0, None, None, None, 0.0)


@given(st.integers(0, 10_000), st.integers(2, 200), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=25)
def test_mcnemar_is_that_of_statsmodels(seed: int, size: int, a: float, b: float) -> None:
    random = np.random.default_rng(seed)
    first, second = networks(random, 1, size, a)[0], networks(random, 1, size, b)[0]
    table = [[sum(first & second), sum(first & ~second)], [sum(~first & second), sum(~first & ~second)]]
    assert mcnemar(first, second) == pytest.approx(min(1.0, oracle_mcnemar(table, exact=True).pvalue), rel=1e-9)


def test_agreement_is_that_of_statsmodels_and_what_is_lost_is_counted() -> None:
    random = np.random.default_rng(3)
    first, second = networks(random, 4, 300, 0.7), networks(random, 4, 300, 0.8)
    found, kappas = agreement(first, second), []
    for one, other in zip(first, second, strict=True):
        table = np.array([[sum(one & other), sum(one & ~other)], [sum(~one & other), sum(~one & ~other)]])
        kappas.append(cohens_kappa(table).kappa)
    assert found.kappa == pytest.approx(np.mean(kappas), rel=1e-9)
    assert found.share == pytest.approx((first == second).mean())
    lost = [1 - np.mean(one[other]) for one, other in zip(first, second, strict=True)]
    assert found.lost == pytest.approx(np.mean(lost))
    pairs = [1 - np.mean(second[b][second[a]]) for a in range(4) for b in range(4) if a != b]
    assert lost_between_seeds(second) == pytest.approx(np.mean(pairs))
    assert lost_between_seeds(second[:1]) is None
    nothing = agreement(~np.zeros((1, 5), dtype=bool), np.zeros((1, 5), dtype=bool))
    assert (nothing.share, nothing.kappa, nothing.lost) == (0, 0, None)
    assert agreement(first[:1] | True, first[:1] | True).kappa is None


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=6), min_size=1, max_size=5))
@settings(max_examples=30)
def test_the_interquartile_mean_is_scipys_trimmed_mean(groups: list[list[float]]) -> None:
    found = interquartile_mean(dict(enumerate(groups)), resamples=50)
    values = [value for group in groups for value in group]
    assert found.value == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-12)
    assert found.n == len(values)
    assert (found.interval is None) == (max(map(len, groups)) < 2)


def test_the_bootstrap_stays_within_each_target_and_repeats_itself() -> None:
    groups = {"a": [0.1, 0.1, 0.1], "b": [0.5, 0.5, 0.5]}
    found = interquartile_mean(groups)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((found.value, found.value))
    groups = {name: np.random.default_rng(len(name)).normal(size=6).tolist() for name in ("a", "bb")}
    again = interquartile_mean(groups)
    assert again == interquartile_mean(groups)
    assert again.interval != interquartile_mean(groups, seed=1).interval
    oracle = stats.bootstrap(
        tuple(map(np.array, groups.values())),
        lambda *parts, axis=-1: stats.trim_mean(np.concatenate(np.broadcast_arrays(*parts), axis=-1), 0.25, axis=-1),
        method="percentile", rng=np.random.default_rng(0), vectorized=True,
    ).confidence_interval  # fmt: skip
    assert again.interval is not None
    assert (again.interval.low, again.interval.high) == pytest.approx((oracle.low, oracle.high), abs=0.05)


@pytest.mark.parametrize("shape", [(3, 1), (2, 4)])
def test_other_shapes_and_kinds_are_refused(shape: tuple[int, int]) -> None:
    good = np.ones(shape, dtype=bool)
    with pytest.raises(InputError, match="at least 2" if shape[1] == 1 else "seeds × images"):
        two_way(good, good if shape[1] == 1 else good[:1])
    with pytest.raises(InputError, match="two boolean arrays"):
        agreement(good.astype(int), good)
    with pytest.raises(InputError, match=r"at least one number|finite"):
        interquartile_mean({"a": [math.nan]} if shape[1] == 1 else {})


def test_the_interval_holds_what_other_seeds_and_images_give() -> None:
    """Over seeds alone it is too narrow for that, wherever images matter more than seeds."""
    tables = 500
    (found,) = simulate_images(tables=tables, seeds=(6,), accuracies=(0.9,), images=(300,))
    assert found.two_way >= 0.95 - 4 * math.sqrt(0.05 * 0.95 / tables)
    assert found.seeds_only < 0.92
