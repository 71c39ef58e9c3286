"""Masks, states and arms side by side, against counts, simulation and references written from the formulas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.metrics import (
    best_epoch,
    distance,
    matching,
    overlap,
    sign_flips,
    smallest_matching_density,
    steps_to,
    transfer_efficiency,
)
from oneticket.training import EpochRecord


def layers(*kept: tuple[int, int]) -> Masks:
    """Layers of which the first ``kept`` of ``total`` weights are kept."""
    return Masks({f"layer{i}": torch.arange(total) < k for i, (k, total) in enumerate(kept)})


# -- overlap ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kept", [1, 20, 137, 199, 200])
def test_chance_is_rho_over_two_less_rho_for_equal_densities(kept: int) -> None:
    rho = kept / 200
    assert overlap(layers((kept, 200)), layers((kept, 200))).chance == pytest.approx(rho / (2 - rho), rel=1e-14)


@pytest.mark.parametrize(("a", "b"), [(300, 300), (900, 90), (40, 700), (1000, 500)])
def test_chance_is_what_random_masks_overlap_by(a: int, b: int) -> None:
    """Also for two densities that differ: the mean of 400 pairs within four standard errors, and 1/n for its ratio."""
    generator = torch.Generator().manual_seed(a)
    first, second = layers((a, 1000)), layers((b, 1000))
    drawn = [first.overlap(second.permuted(generator, within="network")) for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(overlap(first, second).chance, abs=4 * np.std(drawn) / 20 + 1e-3)


@pytest.mark.parametrize(("a", "b", "n"), [(2, 3, 5), (1, 1, 4), (4, 2, 6)])
def test_chance_is_the_ratio_of_mean_intersection_to_mean_union_over_all_pairs(a: int, b: int, n: int) -> None:
    pairs = [(set(x), set(y)) for x in itertools.combinations(range(n), a) for y in itertools.combinations(range(n), b)]
    expected = sum(len(x & y) for x, y in pairs) / sum(len(x | y) for x, y in pairs)
    assert overlap(layers((a, n)), layers((b, n))).chance == pytest.approx(expected, rel=1e-14)


def test_chance_within_layers_knows_where_the_weights_are() -> None:
    """Both keep one layer whole and a tenth of the other: at random within layers they share 100 + 1 of 119."""
    generator = torch.Generator().manual_seed(0)
    first = layers((100, 100), (10, 100))
    found = overlap(first, first)
    assert found.value == 1.0
    assert found.layer_chance == pytest.approx(101 / 119, rel=1e-14)
    assert found.chance == pytest.approx(0.55 / 1.45, rel=1e-14)
    drawn = [first.overlap(first.permuted(generator, within="layer")) for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(found.layer_chance, abs=4 * np.std(drawn) / 20 + 1e-3)


def test_overlap_of_next_to_nothing() -> None:
    nothing, something = layers((0, 5)), layers((2, 5))
    assert overlap(nothing, nothing) == overlap(Masks({}), Masks({}))
    assert overlap(nothing, nothing).chance == overlap(nothing, nothing).value == 1.0
    assert (overlap(nothing, something).value, overlap(nothing, something).chance) == (0.0, 0.0)


# -- signs ------------------------------------------------------------------------------------------------------------
def test_signs_are_compared_over_kept_weights() -> None:
    first = {"a": torch.tensor([1.0, -1.0, 2.0, 0.0, 3.0, -1e-30]), "b": torch.tensor([[-1.0]]), "bias": torch.ones(1)}
    second = {"a": torch.tensor([-1.0, -5.0, -2.0, -1.0, -3.0, 1e-30]), "b": torch.tensor([[-2.0]])}
    masks = Masks({"a": torch.tensor([True, True, True, True, False, True]), "b": torch.tensor([[True]])})
    flips = sign_flips(first, second, masks)
    assert flips.layers == {"a": (3, 5), "b": (0, 1)}
    assert (flips.flipped, flips.kept, flips.fraction) == (3, 6, 0.5)
    assert sign_flips(first, second, Masks({"b": torch.tensor([[False]])})).fraction is None


def test_states_without_a_masked_tensor_are_refused() -> None:
    masks = Masks({"a": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"second: no tensor 'a' of the mask's shape \(2,\)"):
        sign_flips({"a": torch.ones(2)}, {"a": torch.ones(3)}, masks)
    with pytest.raises(InputError, match="first: no tensor 'a'"):
        sign_flips({}, {"a": torch.ones(2)}, masks)


# -- transfer efficiency ----------------------------------------------------------------------------------------------
def by_seed(values: np.ndarray) -> dict[int, float]:
    return {seed: float(value) for seed, value in enumerate(values)}


def rejected(ratio: float, gains: np.ndarray, possibles: np.ndarray) -> float:
    """p of the hypothesis that the ratio of the means is ``ratio``: Fieller's idea, with scipy's t test."""
    return float(stats.ttest_1samp(gains - ratio * possibles, 0.0).pvalue)


@pytest.mark.parametrize("seed", range(10))
def test_the_interval_ends_where_a_t_test_begins_to_reject(seed: int) -> None:
    rng = np.random.default_rng(seed)
    random = rng.normal(0.80, 0.01, 6)
    own, source = random + rng.normal(0.05, 0.01, 6), random + rng.normal(0.03, 0.01, 6)
    found = transfer_efficiency(by_seed(source), by_seed(own), by_seed(random))
    assert found is not None
    assert found.decided
    assert found.interval is not None
    assert found.value == pytest.approx((source - random).mean() / (own - random).mean(), rel=1e-12)
    assert found.interval.low < found.value < found.interval.high
    for end in (found.interval.low, found.interval.high):
        assert rejected(end, source - random, own - random) == pytest.approx(0.05, rel=1e-6)
    middle = (found.interval.low + found.interval.high) / 2
    assert rejected(middle, source - random, own - random) > 0.05


def test_the_interval_covers_the_true_ratio_95_times_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        shared = rng.normal(0, 0.01, 6)  # paired: what a seed does to all three
        random, own, source = (shared + rng.normal(m, 0.01, 6) for m in (0.80, 0.86, 0.845))
        found = transfer_efficiency(by_seed(source), by_seed(own), by_seed(random))
        assert found is not None
        if found.interval is not None:
            covered.append(found.interval.low <= 0.75 <= found.interval.high)
    assert len(covered) > 1990, "hardly ever undecided here"
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / len(covered)))


@pytest.mark.parametrize("own", [[0.801, 0.799, 0.802, 0.798], [0.70, 0.71, 0.69, 0.70]])
def test_without_a_gain_of_the_own_ticket_it_is_undecided(own: list[float]) -> None:
    """About no gain, and a loss: the ratio of two losses is no efficiency."""
    random = {seed: 0.8 + seed * 1e-4 for seed in range(4)}
    found = transfer_efficiency(dict.fromkeys(range(4), 0.75), dict(enumerate(own)), random)
    assert found is not None
    assert (found.n, found.value, found.interval, found.decided) == (4, None, None, False)
    assert found.gain.mean == pytest.approx(-0.05, abs=1e-3)
    assert found.possible.mean < 0.01


def test_one_seed_decides_nothing_and_none_gives_none() -> None:
    found = transfer_efficiency({0: 0.9, 1: 0.8}, {0: 0.95, 2: 0.1}, {0: 0.5})
    assert found is not None
    assert (found.n, found.value, found.decided) == (1, None, False)
    assert transfer_efficiency({0: 0.9}, {1: 0.9}, {0: 0.5}) is None


def test_the_own_ticket_has_efficiency_one() -> None:
    own, random = {0: 0.90, 1: 0.91, 2: 0.93}, {0: 0.80, 1: 0.82, 2: 0.81}
    found = transfer_efficiency(own, own, random)
    assert found is not None
    assert found.value == 1.0
    assert found.interval is not None
    # The interval is a point, but for the rounding under a root.
    assert (found.interval.low, found.interval.high) == pytest.approx((1.0, 1.0), abs=1e-6)


# -- matching ---------------------------------------------------------------------------------------------------------
DENSE = {0: 0.920, 1: 0.922, 2: 0.919, 3: 0.921, 4: 0.920, 5: 0.918}


def shifted(by: float, noise: float = 0.0003) -> dict[int, float]:
    return {seed: value + by + noise * (-1) ** seed for seed, value in DENSE.items()}


@pytest.mark.parametrize(("by", "holds"), [(0, True), (0.001, True), (-0.001, True), (-0.0019, False), (0.01, False)])
def test_matching_is_within_two_tenths_of_a_point(by: float, holds: bool) -> None:
    found = matching(shifted(by), DENSE)
    assert found is not None
    assert found.margin == 0.002
    assert found.holds() is holds


def test_too_noisy_to_tell_is_not_matching() -> None:
    found = matching(shifted(0.0, noise=0.004), DENSE)
    assert found is not None
    assert abs(found.mean) < 1e-12
    assert not found.holds()


def test_the_smallest_density_that_is_not_below() -> None:
    """Better than dense counts; worse does not; that a smaller one fails does not matter."""
    arms = {0.5: shifted(0.0), 0.2: shifted(0.02), 0.1: shifted(-0.0005), 0.05: shifted(-0.01), 0.8: shifted(-0.02)}
    assert smallest_matching_density(arms, DENSE) == 0.1
    assert smallest_matching_density({0.2: shifted(0.02)}, DENSE) == 0.2
    assert smallest_matching_density({0.05: shifted(-0.01)}, DENSE) is None
    assert smallest_matching_density({}, DENSE) is None
    assert smallest_matching_density({0.1: {0: 0.92}}, DENSE) is None, "one seed shows nothing"


def test_the_smallest_density_pays_for_having_been_picked() -> None:
    """p = 0.03 is enough alone, and not as one of four."""
    noise = np.array([1, -1, 0.5, -0.5, 0.2, -0.2]) * 1e-3
    scale = noise.std(ddof=1) / math.sqrt(6)
    offset = stats.t.isf(0.03, 5) * scale - 0.002
    arm = {seed: DENSE[seed] + offset + noise[seed] for seed in DENSE}
    assert matching(arm, DENSE).p_below == pytest.approx(0.03, rel=1e-6)  # type: ignore[union-attr]
    assert smallest_matching_density({0.1: arm}, DENSE) == 0.1
    rest = {rho: shifted(-0.01) for rho in (0.2, 0.3, 0.4)}
    assert smallest_matching_density({0.1: arm, **rest}, DENSE) is None


# -- histories --------------------------------------------------------------------------------------------------------
def history(*accuracies: float | None) -> list[EpochRecord]:
    return [EpochRecord(i, 100 + 10 * i, 0.1, 1.0, a, None) for i, a in enumerate(accuracies, start=1)]


@given(st.lists(st.one_of(st.none(), st.integers(0, 100).map(lambda k: k / 100)), max_size=8))
def test_the_best_epoch_is_the_first_of_the_highest(accuracies: list[float | None]) -> None:
    judged = [a for a in accuracies if a is not None]
    best = best_epoch(history(*accuracies))
    if not judged:
        assert best is None
        return
    assert best is not None
    assert best.val_accuracy == max(judged)
    assert best.epoch == accuracies.index(max(judged)) + 1


def test_steps_are_counted_to_the_first_epoch_that_is_as_good() -> None:
    records = history(0.1, None, 0.5, 0.4, 0.8)
    assert steps_to(records, 0.5) == 130
    assert steps_to(records, 0.5, start=100) == 30
    assert steps_to(records, 0.51) == 150
    assert steps_to(records, 0.0) == 110
    assert steps_to(records, 0.81) is None
    assert steps_to([], 0.0) is None


def test_distance_is_the_norm_of_the_difference_of_kept_weights() -> None:
    masks = Masks({"a": torch.tensor([True, False, True]), "b": torch.tensor([[True]])})
    first = {"a": torch.tensor([1.0, 5.0, -2.0]), "b": torch.tensor([[12.0]]), "rest": torch.zeros(1)}
    second = {"a": torch.tensor([4.0, 9.0, 2.0]), "b": torch.tensor([[0.0]])}
    found = distance(first, second, masks)
    assert found.norm == pytest.approx(13)
    assert found.layers == {"a": (5.0, pytest.approx(math.sqrt(5))), "b": (12.0, 12.0)}
    assert distance(first, first, masks).norm == 0
    with pytest.raises(InputError, match="no tensor 'b'"):
        distance(first, {"a": second["a"]}, masks)
