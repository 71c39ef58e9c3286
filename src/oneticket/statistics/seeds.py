"""Statistics over seeds: mean, deviation, t interval, paired difference, equivalence, Holm; in float64.

An accuracy is a count of images over their number N, so that a spread below 1/N says nothing. Where ``images`` gives
N, the variance that rounding to whole images has, 1/(12 N²) for each accuracy (Sheppard 1898), is added to that of the
values: no interval has zero width and no p value is zero because counts happen to be equal. Where N is not known and
the values do not differ, their spread is not known, so that there is neither an interval nor a p value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from scipy.special import stdtr, stdtrit

from oneticket.errors import InputError

CONFIDENCE = 0.95
MARGIN = 0.002
"""Two accuracies are as good as each other within 0.2 points."""
UNRESOLVED = 1e-9
"""Accuracies that differ by less are equal: no test split has so many images, rounding of float64 is far below."""
Seed = TypeVar("Seed", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, in the unit of the values."""

    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """A summary of n values.

    ``deviation`` and ``interval`` are None for a single value, ``interval`` also where no spread can be resolved.
    """

    n: int
    mean: float
    deviation: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """A paired difference over n pairs; ``interval`` and ``p`` are None where its spread is not known.

    It is not known for a single pair, and for equal differences of accuracies over an unknown number of images.
    ``spread`` is the standard deviation that both rest on, the resolution of the test split included.
    """

    n: int
    mean: float
    interval: Interval | None
    p: float | None
    spread: float | None = None


@dataclass(frozen=True)
class Equivalence:
    """Whether a paired difference over n pairs lies within ``margin`` on both sides.

    ``p_below`` is the p value against a difference of −margin or less, ``p_above`` against a difference of margin or
    more; both are None where the spread of the differences is not known. ``p``, the larger of the two, is the p value
    of the equivalence.
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
    return _mean(_finite(values))


def deviation(values: Iterable[float]) -> float | None:
    """Sample standard deviation ``√(Σ(x − mean)² / (n − 1))``; None for one value."""
    return _deviation(_finite(values))


def t_interval(
    values: Iterable[float],
    confidence: float = CONFIDENCE,
    *,
    images: int | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval | None:
    """Student's interval of the mean, ``mean ± t(1 − α/2; n − 1) · s / √n`` (Student 1908).

    It is exact for independent normal values. Six seeds are enough for its coverage, but not for that of a percentile
    bootstrap. An interval that is cut off at the bounds of what is measured covers it as often as the whole one.

    Parameters
    ----------
    values : Iterable[float]
        At least one finite number.
    confidence : float, default 0.95
        1 − α.
    images : int, optional
        Where the values are accuracies, over how many images each: s² + 1/(12 N²) stands for s².
    bounds : tuple of float, optional
        The least and the greatest value that the mean can have.

    Returns
    -------
    Interval or None
        None for one value, and for equal values without ``images``.
    """
    return describe(values, confidence, images=images, bounds=bounds).interval


def describe(
    values: Iterable[float],
    confidence: float = CONFIDENCE,
    *,
    images: int | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Sample:
    """Number, mean, sample standard deviation and t interval of ``values``; the options are those of `t_interval`.

    Raises
    ------
    InputError
        For no values, and for a value that is not finite.
    """
    numbers = _finite(values)
    n, centre, found = len(numbers), _mean(numbers), _deviation(numbers)
    spread, interval = _spread(numbers, found, images, readings=1), None
    if spread is not None:
        half, (least, most) = _quantile(n - 1, 0.5 + confidence / 2) * spread / math.sqrt(n), bounds
        interval = Interval(max(least, centre - half), min(most, centre + half))
    return Sample(n, centre, found, interval)


def paired_difference(
    first: Mapping[Seed, float],
    second: Mapping[Seed, float],
    confidence: float = CONFIDENCE,
    *,
    images: int | None = None,
) -> Difference | None:
    """``first − second`` over the seeds that both have, with its t interval and two-sided p value.

    The paired t test (Student 1908): ``d_i = first_i − second_i``, ``t = mean(d) √n / s(d)``, n − 1 degrees of freedom.

    Parameters
    ----------
    first, second : Mapping[Seed, float]
        Values by seed.
    confidence : float, default 0.95
        The confidence of the interval.
    images : int, optional
        Where the values are accuracies, over how many images each: s² + 1/(6 N²) stands for s², since both of a pair
        are rounded to whole images.

    Returns
    -------
    Difference or None
        None without a common seed.
    """
    differences = paired(first, second)
    if not differences:
        return None
    numbers = _finite(differences)
    n, centre = len(numbers), _mean(numbers)
    spread = _spread(numbers, _deviation(numbers), images, readings=2)
    if spread is None:
        return Difference(n, centre, None, None)
    error = spread / math.sqrt(n)
    half = _quantile(n - 1, 0.5 + confidence / 2) * error
    p = 2 * float(stdtr(n - 1, -abs(centre / error)))
    return Difference(n, centre, Interval(centre - half, centre + half), p, spread)


def equivalence(
    first: Mapping[Seed, float], second: Mapping[Seed, float], margin: float, *, images: int | None = None
) -> Equivalence | None:
    """Two one-sided paired t tests of ``|first − second| < margin`` over the seeds that both have.

    TOST (Schuirmann 1987): at level α it holds iff the 1 − 2α interval of the difference lies inside ±margin.

    Parameters
    ----------
    first, second : Mapping[Seed, float]
        Values by seed.
    margin : float
        Above 0, in the unit of the values.
    images : int, optional
        As `paired_difference` has it.

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
    found = paired_difference(first, second, images=images)
    if found is None:
        return None
    p_below, p_above = (_one_sided_p(found, distance) for distance in (found.mean + margin, margin - found.mean))
    return Equivalence(found.n, found.mean, margin, p_below, p_above)


def paired(first: Mapping[Seed, float], second: Mapping[Seed, float]) -> list[float]:
    """``first − second`` for each seed that both have, in the order of ``first``."""
    return [first[seed] - second[seed] for seed in first if seed in second]


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


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _deviation(numbers: Sequence[float]) -> float | None:
    if len(numbers) == 1:
        return None
    centre = _mean(numbers)
    return math.sqrt(math.fsum([(x - centre) ** 2 for x in numbers]) / (len(numbers) - 1))


@lru_cache(maxsize=1024)
def _quantile(freedom: int, probability: float) -> float:
    """Student's quantile; a large table asks for the same one thousands of times."""
    return float(stdtrit(freedom, probability))


def _spread(numbers: Sequence[float], found: float | None, images: int | None, *, readings: int) -> float | None:
    """The standard deviation of values that are differences of so many ``readings``, each rounded to 1/images.

    ``found`` is the one that they have as they are.

    None where it is not known: for a single value, and for values that are equal as far as anybody can tell.
    """
    if images is not None and images < 1:
        raise InputError(f"there are {images} test images", where="statistics", expected="at least 1")
    if found is None:
        return None
    if images is not None:
        return math.sqrt(found * found + readings / (12 * images**2))
    return found if max(numbers) - min(numbers) > UNRESOLVED * max(1.0, *map(abs, numbers)) else None


def _one_sided_p(found: Difference, distance: float) -> float | None:
    """The p value of a mean that lies ``distance`` inside the bound it is tested against."""
    if found.spread is None:
        return None
    return float(stdtr(found.n - 1, -distance * math.sqrt(found.n) / found.spread))


def _finite(values: Iterable[float]) -> list[float]:
    numbers = [float(x) for x in values]
    if not numbers:
        raise InputError("there are no values", where="statistics", expected="at least one number")
    if not all(map(math.isfinite, numbers)):
        raise InputError("a value is not finite", where="statistics", expected="finite numbers")
    return numbers
