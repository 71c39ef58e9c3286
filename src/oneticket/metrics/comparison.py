"""Two masks, two states, or arms over paired seeds, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.statistics import (
    CONFIDENCE,
    MARGIN,
    Difference,
    Equivalence,
    Interval,
    Seed,
    equivalence,
    holm,
    mean,
    paired_difference,
)
from oneticket.training.results import EpochRecord

MATCHING_WITHIN = MARGIN
"""An arm matches the dense network where it is within 0.2 points of it."""


# -- masks and weights --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Overlap:
    """Intersection over union of two masks, and the same by chance.

    Parameters
    ----------
    value : float
        Of the two masks.
    chance : float
        Of masks with the same numbers of kept weights, at random in the whole network; ρ/(2−ρ) for equal ρ.
    layer_chance : float
        The same, at random within each layer; higher where both masks keep more of the same layers.
    """

    value: float
    chance: float
    layer_chance: float


def overlap(first: Masks, second: Masks) -> Overlap:
    """The weights that both masks keep, as a part of those that either keeps, beside chance.

    Two sets of k₁ and k₂ of n weights drawn at random share k₁k₂/n on average (the mean of the hypergeometric
    distribution); chance is that over k₁ + k₂ − k₁k₂/n, which is ρ/(2−ρ) for k₁ = k₂ = ρn.

    Parameters
    ----------
    first, second : Masks
        Masks of equal names and shapes.

    Returns
    -------
    Overlap
        1.0 where neither mask keeps a weight.
    """
    value = first.overlap(second)
    layers = [(row.kept, int(second[row.name].sum()), row.total) for row in first.table() if row.total]
    whole = (first.kept, second.kept, first.total)
    return Overlap(value, _chance([whole] if first.total else []), _chance(layers))


def _chance(groups: Sequence[tuple[int, int, int]]) -> float:
    shared = math.fsum(a * b / n for a, b, n in groups)
    union = sum(a + b for a, b, _ in groups) - shared
    return shared / union if union else 1.0


@dataclass(frozen=True)
class SignFlips:
    """Kept weights whose sign differs between two states: ``flipped`` of ``kept``, by layer ``(flipped, kept)``."""

    flipped: int
    kept: int
    layers: Mapping[str, tuple[int, int]]

    @property
    def fraction(self) -> float | None:
        """Flipped over kept; None where no weight is kept."""
        return self.flipped / self.kept if self.kept else None


def sign_flips(first: Mapping[str, Tensor], second: Mapping[str, Tensor], masks: Masks) -> SignFlips:
    """Count the kept weights whose sign differs between two states; a weight of exactly 0.0 has no sign.

    Parameters
    ----------
    first, second : Mapping[str, Tensor]
        States with a tensor of the mask's shape for each mask.
    masks : Masks
        The weights to count.

    Returns
    -------
    SignFlips

    Raises
    ------
    InputError
        When a state lacks such a tensor.
    """
    _check_states(first, second, masks)
    layers = {}
    for name, mask in masks.items():
        signs = (torch.sign(state[name].detach().cpu()[mask.cpu()]) for state in (first, second))
        layers[name] = (int((next(signs) * next(signs) < 0).sum()), int(mask.sum()))
    return SignFlips(sum(f for f, _ in layers.values()), sum(k for _, k in layers.values()), layers)


@dataclass(frozen=True)
class Distance:
    """How far apart two states are, in L2: ‖m ∘ (W − V)‖ of all tensors together, and by layer ``(‖…‖, ‖m ∘ V‖)``."""

    norm: float
    layers: Mapping[str, tuple[float, float]]


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor], masks: Masks) -> Distance:
    """The L2 distance between two states over the kept weights, in float64.

    With ``first`` the weights at the beginning of a training and ``second`` those at its end, it is how far that went;
    Liu et al. 2021 compare tickets by it.

    Parameters
    ----------
    first, second : Mapping[str, Tensor]
        States with a tensor of the mask's shape for each mask.
    masks : Masks
        The weights that count.

    Returns
    -------
    Distance

    Raises
    ------
    InputError
        When a state lacks such a tensor.
    """
    _check_states(first, second, masks)
    layers = {}
    for name, mask in masks.items():
        old, new = (state[name].detach().cpu().double()[mask.cpu()] for state in (first, second))
        layers[name] = (float((new - old).norm()), float(old.norm()))
    return Distance(math.hypot(*(far for far, _ in layers.values())), layers)


def _check_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor], masks: Masks) -> None:
    for name, mask in masks.items():
        for place, state in (("first", first), ("second", second)):
            if name not in state or state[name].shape != mask.shape:
                raise InputError(f"no tensor '{name}' of the mask's shape {tuple(mask.shape)}", where=place)


# -- arms over seeds ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TransferEfficiency:
    """The gain of another source's ticket over a random one, as a part of the gain of the target's own ticket.

    ``value`` and ``interval`` are None where it is undecided: unless the gain of the own ticket is shown to be above
    zero, the ratio can be anything. ``gain`` (source − random) and ``possible`` (own − random) are always given.
    """

    n: int
    value: float | None
    interval: Interval | None
    gain: Difference
    possible: Difference

    @property
    def decided(self) -> bool:
        """Whether the ratio has an interval."""
        return self.interval is not None


def transfer_efficiency(
    source: Mapping[Seed, float],
    own: Mapping[Seed, float],
    random: Mapping[Seed, float],
    confidence: float = CONFIDENCE,
) -> TransferEfficiency | None:
    """``(source − random) / (own − random)`` of the means over the seeds that all three have.

    The interval is Fieller's (1954) for paired values: all ratios R for which the mean of ``gain − R · possible`` does
    not differ from zero in a t test at this confidence. It is bounded iff ``possible`` differs from zero in that test.

    Parameters
    ----------
    source, own, random : Mapping[Seed, float]
        Accuracies by seed of a ticket of another source, of the target's own ticket, and of random masks.
    confidence : float, default 0.95
        Of the interval, and of the test whether the own ticket gains.

    Returns
    -------
    TransferEfficiency or None
        None without a common seed.
    """
    seeds = [seed for seed in source if seed in own and seed in random]
    gains = {seed: source[seed] - random[seed] for seed in seeds}
    possibles = {seed: own[seed] - random[seed] for seed in seeds}
    nothing = dict.fromkeys(seeds, 0.0)
    gain = paired_difference(gains, nothing, confidence)
    possible = paired_difference(possibles, nothing, confidence)
    if gain is None or possible is None:
        return None
    n = len(seeds)
    interval = None
    if possible.interval is not None and possible.interval.low > 0:
        interval = _fieller(list(gains.values()), list(possibles.values()), confidence)
    value = gain.mean / possible.mean if interval is not None else None
    return TransferEfficiency(n, value, interval, gain, possible)


def _fieller(above: list[float], below: list[float], confidence: float) -> Interval | None:
    """The roots R of ``(x̄ − R ȳ)² = t² (s_xx − 2R s_xy + R² s_yy) / n``; None where they bound nothing."""
    n, x, y = len(above), mean(above), mean(below)
    factor = float(stdtrit(n - 1, 0.5 + confidence / 2)) ** 2 / (n * (n - 1))

    def moment(a: list[float], b: list[float]) -> float:
        return factor * math.fsum((p - mean(a)) * (q - mean(b)) for p, q in zip(a, b, strict=True))

    square = y * y - moment(below, below)
    half = x * y - moment(above, below)
    rest = x * x - moment(above, above)
    if square <= 0:
        return None
    root = math.sqrt(max(half * half - square * rest, 0.0))
    return Interval((half - root) / square, (half + root) / square)


def matching(
    arm: Mapping[Seed, float], dense: Mapping[Seed, float], margin: float = MATCHING_WITHIN
) -> Equivalence | None:
    """Whether an arm is within ``margin`` of the dense network, by two one-sided paired tests.

    Parameters
    ----------
    arm, dense : Mapping[Seed, float]
        Accuracies by seed.
    margin : float, default 0.002
        The largest difference that counts as equal, a fraction.

    Returns
    -------
    Equivalence or None
        None without a common seed.
    """
    return equivalence(arm, dense, margin)


def smallest_matching_density(
    arms: Mapping[float, Mapping[Seed, float]],
    dense: Mapping[Seed, float],
    margin: float = MATCHING_WITHIN,
    level: float = 1 - CONFIDENCE,
) -> float | None:
    """The smallest density at which an arm is shown to be at most ``margin`` below the dense network.

    Only the lower side of the equivalence is tested, since a ticket that beats the dense network matches it too. The p
    values have Holm's correction over the densities, since the smallest of them is picked.

    Parameters
    ----------
    arms : Mapping[float, Mapping[Seed, float]]
        Density → accuracies by seed.
    dense : Mapping[Seed, float]
        The accuracies of the dense network.
    margin : float, default 0.002
        A fraction.
    level : float, default 0.05
        Of the tests.

    Returns
    -------
    float or None
        None where this is not shown at any density.
    """
    tests = {density: equivalence(arm, dense, margin) for density, arm in arms.items()}
    shown = {density: test.p_below for density, test in tests.items() if test is not None and test.p_below is not None}
    adjusted = zip(shown, holm(list(shown.values())), strict=True)
    return min((density for density, p in adjusted if p <= level), default=None)


# -- histories ----------------------------------------------------------------------------------------------------
def best_epoch(history: Sequence[EpochRecord]) -> EpochRecord | None:
    """The epoch with the highest validation accuracy, the earliest of equal ones; None without validation."""
    judged = [record for record in history if record.val_accuracy is not None]
    return max(judged, key=lambda record: record.val_accuracy or 0.0, default=None)


def steps_to(history: Sequence[EpochRecord], accuracy: float, *, start: int = 0) -> int | None:
    """Optimiser steps until the validation accuracy, measured once an epoch, first reached ``accuracy``.

    Parameters
    ----------
    history : Sequence[EpochRecord]
        The epochs of one training.
    accuracy : float
        A fraction.
    start : int, default 0
        The step to count from; for a rewound training the step that it was rewound to.

    Returns
    -------
    int or None
        None where it was never reached.
    """
    reached = (r.step - start for r in history if r.val_accuracy is not None and r.val_accuracy >= accuracy)
    return next(reached, None)
