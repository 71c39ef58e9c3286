"""Statistics over seeds: mean, standard deviation, t interval and paired difference, in float64."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
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
    """n values in short; ``deviation`` and ``interval`` are None for a single value."""

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
    """Student's interval of the mean, ``mean ± t(1 − α/2; n − 1) · s / √n``; None for one value.

    Source: Student 1908. Exact for independent normal values; six seeds are enough for its coverage, not for a
    percentile bootstrap's.
    """
    numbers = _finite(values)
    spread = deviation(numbers)
    if spread is None:
        return None
    n = len(numbers)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread / math.sqrt(n)
    return Interval(mean(numbers) - half, mean(numbers) + half)


def describe(values: Iterable[float], confidence: float = CONFIDENCE) -> Sample:
    """Number, mean, standard deviation and t interval of ``values``; InputError when empty or not finite."""
    numbers = _finite(values)
    return Sample(len(numbers), mean(numbers), deviation(numbers), t_interval(numbers, confidence))


def paired_difference(
    first: Mapping[Seed, float], second: Mapping[Seed, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """``first − second`` over the seeds both have, with its t interval and two-sided p value; None without such a seed.

    The paired t test (Student 1908): ``d_i = first_i − second_i``, ``t = mean(d) √n / s(d)``, n − 1 degrees of freedom.
    When all differences are equal, s(d) = 0: the interval is that point and p its limit, 1 at zero and 0 elsewhere.
    """
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    if not differences:
        return None
    sample = describe(differences, confidence)
    return Difference(sample.n, sample.mean, sample.interval, _two_sided_p(sample))


def _two_sided_p(sample: Sample) -> float | None:
    if sample.deviation is None:
        return None
    if sample.deviation == 0:
        return 1.0 if sample.mean == 0 else 0.0
    t = sample.mean * math.sqrt(sample.n) / sample.deviation
    return 2 * float(stdtr(sample.n - 1, -abs(t)))


def _finite(values: Iterable[float]) -> list[float]:
    numbers = [float(x) for x in values]
    if not numbers:
        raise InputError("no values", where="statistics", expected="at least one number")
    if not all(map(math.isfinite, numbers)):
        raise InputError("a value is not finite", where="statistics", expected="finite numbers")
    return numbers
