"""Arms over seeds: how much of a gain is transferred, and whether an arm matches the dense network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import stdtrit

from oneticket.statistics.seeds import (
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

MATCHING_WITHIN = MARGIN
"""An arm matches the dense network where it is within 0.2 points of it."""


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
    *,
    images: int | None = None,
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
    images : int, optional
        Over how many test images the accuracies are; the variance of rounding them is part of the interval.

    Returns
    -------
    TransferEfficiency or None
        None without a common seed.
    """
    seeds = [seed for seed in source if seed in own and seed in random]
    gains = {seed: source[seed] - random[seed] for seed in seeds}
    possibles = {seed: own[seed] - random[seed] for seed in seeds}
    nothing = dict.fromkeys(seeds, 0.0)
    gain = paired_difference(gains, nothing, confidence, images=images)
    possible = paired_difference(possibles, nothing, confidence, images=images)
    if gain is None or possible is None:
        return None
    n = len(seeds)
    interval = None
    if possible.interval is not None and possible.interval.low > 0:
        interval = _fieller(list(gains.values()), list(possibles.values()), confidence, images)
    value = gain.mean / possible.mean if interval is not None else None
    return TransferEfficiency(n, value, interval, gain, possible)


def _fieller(above: list[float], below: list[float], confidence: float, images: int | None) -> Interval | None:
    """The roots R of ``(x̄ − R ȳ)² = t² (s_xx − 2R s_xy + R² s_yy) / n``; None where they bound nothing.

    Rounding adds 1/(6 N²) to s_xx and s_yy, and 1/(12 N²) to s_xy, since both hold the same random network.
    """
    n, x, y = len(above), mean(above), mean(below)
    factor = float(stdtrit(n - 1, 0.5 + confidence / 2)) ** 2 / (n * (n - 1))

    rounding = 0.0 if images is None else (n - 1) / (12 * images**2)

    def moment(a: list[float], b: list[float]) -> float:
        shared = math.fsum((p - mean(a)) * (q - mean(b)) for p, q in zip(a, b, strict=True))
        return factor * (shared + (2 if a is b else 1) * rounding)

    square = y * y - moment(below, below)
    half = x * y - moment(above, below)
    rest = x * x - moment(above, above)
    if square <= 0:
        return None
    root = math.sqrt(max(half * half - square * rest, 0.0))
    return Interval((half - root) / square, (half + root) / square)


def matching(
    arm: Mapping[Seed, float],
    dense: Mapping[Seed, float],
    margin: float = MATCHING_WITHIN,
    *,
    images: int | None = None,
) -> Equivalence | None:
    """Whether an arm is within ``margin`` of the dense network, by two one-sided paired tests.

    Parameters
    ----------
    arm, dense : Mapping[Seed, float]
        Accuracies by seed.
    margin : float, default 0.002
        The largest difference that counts as equal, a fraction.
    images : int, optional
        Over how many test images the accuracies are.

    Returns
    -------
    Equivalence or None
        None without a common seed.
    """
    return equivalence(arm, dense, margin, images=images)


def smallest_matching_density(
    arms: Mapping[float, Mapping[Seed, float]],
    dense: Mapping[Seed, float],
    margin: float = MATCHING_WITHIN,
    level: float = 1 - CONFIDENCE,
    *,
    images: int | None = None,
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
    images : int, optional
        Over how many test images the accuracies are.

    Returns
    -------
    float or None
        None where this is not shown at any density.
    """
    tests = {density: equivalence(arm, dense, margin, images=images) for density, arm in arms.items()}
    shown = {density: test.p_below for density, test in tests.items() if test is not None and test.p_below is not None}
    adjusted = zip(shown, holm(list(shown.values())), strict=True)
    return min((density for density, p in adjusted if p <= level), default=None)
