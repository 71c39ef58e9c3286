"""The simulation: its formulas are those of the statistics, and what was once found stays away."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oneticket.statistics import paired_difference
from oneticket.statistics.simulation import FAMILY, _counts, _p, simulate


def test_its_p_values_are_those_of_the_statistics() -> None:
    counts, _ = _counts(np.random.default_rng(0), (50, 2, 4), 0.99, 300, shared=False)
    found = _p(counts[:, 0] - counts[:, 1], 1 / 6)
    for (first, second), p in zip(counts / 300, found, strict=True):
        expected = paired_difference(dict(enumerate(first)), dict(enumerate(second)), images=300)
        assert expected is not None
        assert expected.p == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_its_networks_have_the_accuracy_asked_for(shared: bool) -> None:
    counts, truth = _counts(np.random.default_rng(1), (4000, FAMILY, 2, 3), 0.9, 300, shared=shared)
    assert counts.mean() / 300 == pytest.approx(0.9, abs=0.001)
    assert truth.mean() / 300 == pytest.approx(0.9, abs=0.001)
    # On a shared split only open images vary: a binomial of a tenth of the images at a half.
    within = counts.var(axis=-1, ddof=1).mean()
    assert within == pytest.approx(300 * 0.1 * 0.25 if shared else 300 * 0.09, rel=0.02)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99])
def test_the_star_of_two_seeds_without_a_difference_is_gone(n: int, accuracy: float) -> None:
    """Equal differences of coarse counts gave p = 0: a star in 8 to 40 of a hundred tables that have none to show."""
    tables = 4000
    chance = 0.05 + 4 * math.sqrt(0.05 * 0.95 / tables)
    for found in simulate(tables=tables, seeds=(n,), accuracies=(accuracy,), images=(300,)):
        assert found.family <= chance
        assert found.mean >= 0.95 - 4 * math.sqrt(0.05 * 0.95 / tables)
        assert found.difference >= 0.95 - 4 * math.sqrt(0.05 * 0.95 / (tables * FAMILY))
        if n == 2:
            assert found.raw_family > 0.07


@pytest.mark.slow
def test_every_setting_keeps_what_it_promises() -> None:
    tables = 10_000
    for found in simulate(tables=tables):
        assert found.family <= 0.05 + 5 * math.sqrt(0.05 * 0.95 / tables), found
        assert min(found.mean, found.difference) >= 0.95 - 5 * math.sqrt(0.05 * 0.95 / tables), found


def test_the_same_seed_gives_the_same_rates() -> None:
    def rates(seed: int) -> object:
        return simulate(tables=200, seed=seed, seeds=(2,), accuracies=(0.9,), images=(300,))

    assert rates(0) == rates(0)
    assert rates(0) != rates(1)
