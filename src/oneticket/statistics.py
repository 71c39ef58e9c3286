"""Statistics over seeds: mean, deviation, t interval, paired difference, equivalence, Holm; in float64."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy.special import stdtr, stdtrit

from oneticket.errors import InputError

CONFIDENCE = 0.95
Seed = TypeVar("Seed", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, in the unit of the values."""

    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """A summary of n values; ``deviation`` and ``interval`` are None for a single value."""

    n: int
    mean: float
    deviation: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """A paired difference over n pairs; ``interval`` and ``p`` are None for a single pair."""

    n: int
    mean: float
    interval: Interval | None
    p: float | None


@dataclass(frozen=True)
class Equivalence:
    """Whether a paired difference over n pairs lies within ``margin`` on both sides.

    ``p_below`` is the p value against a difference of −margin or less, ``p_above`` against a difference of margin or
    more; both are None for a single pair. ``p``, the larger of the two, is the p value of the equivalence.
    """

    n: int
    mean: float
    margin: float
    p_below: float | None
    p_above: float | None

    @property
    def p(self) -> float | None:
        """The p value of both tests together."""
        return None if self.p_below is None or self.p_above is None else max(self.p_below, self.p_above)

    def holds(self, level: float = 1 - CONFIDENCE) -> bool:
        """Whether equivalence is shown at this level; False says that it is not shown, never that they differ."""
        return self.p is not None and self.p <= level


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean ``Σx / n``; the sum is exact before its one rounding, so the order does not matter."""
    numbers = _finite(values)
    return math.fsum(numbers) / len(numbers)


def deviation(values: Iterable[float]) -> float | None:
    """Sample standard deviation ``√(Σ(x − mean)² / (n − 1))``; None for one value."""
    numbers = _finite(values)
    if len(numbers) == 1:
        return None
    centre = mean(numbers)
    return math.sqrt(math.fsum((x - centre) ** 2 for x in numbers) / (len(numbers) - 1))


def t_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Student's interval of the mean, ``mean ± t(1 − α/2; n − 1) · s / √n`` (Student 1908).

    It is exact for independent normal values. Six seeds are enough for its coverage, but not for that of a percentile
    bootstrap.

    Parameters
    ----------
    values : Iterable[float]
        At least one finite number.
    confidence : float, default 0.95
        1 − α.

    Returns
    -------
    Interval or None
        None for one value.
    """
    numbers = _finite(values)
    spread = deviation(numbers)
    if spread is None:
        return None
    n = len(numbers)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread / math.sqrt(n)
    return Interval(mean(numbers) - half, mean(numbers) + half)


def describe(values: Iterable[float], confidence: float = CONFIDENCE) -> Sample:
    """Number, mean, standard deviation and t interval of ``values``.

    Raises
    ------
    InputError
        For no values, and for a value that is not finite.
    """
    numbers = _finite(values)
    return Sample(len(numbers), mean(numbers), deviation(numbers), t_interval(numbers, confidence))


def paired_difference(
    first: Mapping[Seed, float], second: Mapping[Seed, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """``first − second`` over the seeds that both have, with its t interval and two-sided p value.

    The paired t test (Student 1908): ``d_i = first_i − second_i``, ``t = mean(d) √n / s(d)``, n − 1 degrees of freedom.
    If all differences are equal, s(d) = 0: the interval is that point and p its limit, 1 at zero and 0 elsewhere.

    Parameters
    ----------
    first, second : Mapping[Seed, float]
        Values by seed.
    confidence : float, default 0.95
        The confidence of the interval.

    Returns
    -------
    Difference or None
        None without a common seed.
    """
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    if not differences:
        return None
    sample = describe(differences, confidence)
    return Difference(sample.n, sample.mean, sample.interval, _two_sided_p(sample))


def equivalence(first: Mapping[Seed, float], second: Mapping[Seed, float], margin: float) -> Equivalence | None:
    """Two one-sided paired t tests of ``|first − second| < margin`` over the seeds that both have.

    TOST (Schuirmann 1987): at level α it holds iff the 1 − 2α interval of the difference lies inside ±margin. If all
    differences are equal, the p values are their limits, 0 inside the margin and 1 outside.

    Parameters
    ----------
    first, second : Mapping[Seed, float]
        Values by seed.
    margin : float
        Above 0, in the unit of the values.

    Returns
    -------
    Equivalence or None
        None without a common seed.

    Raises
    ------
    InputError
        For a margin that is not above 0.
    """
    if not 0 < margin < math.inf:
        raise InputError(f"the margin is {margin}", where="equivalence", expected="a number above 0")
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    if not differences:
        return None
    sample = describe(differences)
    p_below, p_above = (_one_sided_p(sample, distance) for distance in (sample.mean + margin, margin - sample.mean))
    return Equivalence(sample.n, sample.mean, margin, p_below, p_above)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979): compared with α, they keep the family's error below α.

    The i-th smallest of m values is multiplied by m − i + 1, is at least the one before it and at most 1.

    Parameters
    ----------
    p_values : Sequence[float]
        From 0 to 1.

    Returns
    -------
    list of float
        In the order of ``p_values``.

    Raises
    ------
    InputError
        For a value outside 0 to 1.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise InputError("a p value is outside 0 to 1", where="holm")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def _two_sided_p(sample: Sample) -> float | None:
    if sample.deviation is None:
        return None
    if sample.deviation == 0:
        return 1.0 if sample.mean == 0 else 0.0
    t = sample.mean * math.sqrt(sample.n) / sample.deviation
    return 2 * float(stdtr(sample.n - 1, -abs(t)))


def _one_sided_p(sample: Sample, distance: float) -> float | None:
    """The p value of a mean that lies ``distance`` inside the bound it is tested against."""
    if sample.deviation is None:
        return None
    if sample.deviation == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(sample.n - 1, -distance * math.sqrt(sample.n) / sample.deviation))


def _finite(values: Iterable[float]) -> list[float]:
    numbers = [float(x) for x in values]
    if not numbers:
        raise InputError("there are no values", where="statistics", expected="at least one number")
    if not all(map(math.isfinite, numbers)):
        raise InputError("a value is not finite", where="statistics", expected="finite numbers")
    return numbers
