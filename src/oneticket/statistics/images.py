"""Statistics over test images: intervals over seeds and images at once, two networks on the same images, agreement.

Networks are rows of booleans: whether each image of one test split is classified rightly, images in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri, stdtr, stdtrit

from oneticket.errors import InputError
from oneticket.statistics.seeds import CONFIDENCE, Interval

Target = TypeVar("Target", bound=Hashable)
RESAMPLES = 10_000


@dataclass(frozen=True)
class TwoWay:
    """A paired difference over n seeds and so many images, both a sample of those that there could be.

    ``error`` is the standard error of ``mean``, ``freedom`` its degrees of freedom. ``floor`` is half the width of the
    interval over images alone: a smaller difference of these very networks may be due to the images that were chosen.
    With one seed there is nothing but the floor.
    """

    n: int
    images: int
    mean: float
    interval: Interval | None
    p: float | None
    error: float | None
    freedom: float | None
    floor: float


@dataclass(frozen=True)
class Agreement:
    """Two arms on the same images, networks paired by seed; fractions, means over the seeds.

    ``share`` of the images both networks classify rightly or both wrongly. ``kappa`` is Cohen's: 1 where they always
    agree, 0 where as often as chance would have it; None where it is not defined. ``lost`` is the part of the second
    one's right images that the first one classifies wrongly; None where the second one has none.
    """

    share: float
    kappa: float | None
    lost: float | None


@dataclass(frozen=True)
class InterquartileMean:
    """The mean of the middle half of n values over all targets, with its bootstrap interval."""

    n: int
    value: float
    interval: Interval | None


def two_way(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> TwoWay:
    """``first − second`` with an interval for other seeds and other images, both being random.

    Seeds and images are crossed: ``d_si = μ + a_s + b_i + e_si``. By the method of moments, with the mean squares of
    seeds, images and rest, the variance of the mean is ``(MS_s + max(MS_i − MS_e, 0)) / (n N)``, or ``MS_i / (n N)``
    if that is more, so that it is never less than over seeds or images alone; ``N / (6 N²)``, the variance of rounding,
    is part of MS_s. Degrees of freedom by Satterthwaite (1946), as Hillis (2007) has them for readers and cases.

    Parameters
    ----------
    first, second : array of bool, seeds × images
        Which images the networks of two arms classify rightly; row for row with the same seed.
    confidence : float, default 0.95
        Of the interval and the floor.

    Returns
    -------
    TwoWay

    Raises
    ------
    InputError
        For arrays that are not seeds × images of the same shape, and for fewer than two images.
    """
    one, other = _networks(first, second)
    differences = one.astype(np.int8) - other
    n, images = differences.shape
    by_seed, by_image = differences.mean(1), differences.mean(0)
    centre = float(by_seed.mean())
    of_images = n * float(by_image.var(ddof=1))
    floor = float(ndtri(0.5 + confidence / 2)) * math.sqrt(of_images / (n * images))
    if n == 1:
        return TwoWay(n, images, centre, None, None, None, None, floor)
    spread = float(by_seed.var(ddof=1))
    about_centre = np.count_nonzero(differences) - n * images * centre**2
    of_rest = (about_centre - (n - 1) * images * spread - (images - 1) * of_images) / ((n - 1) * (images - 1))
    of_seeds = images * (spread + 1 / (6 * images**2))
    added = max(of_images - of_rest, 0.0)
    freedom = (of_seeds + added) ** 2 / (of_seeds**2 / (n - 1) + added**2 / (images - 1))
    error = math.sqrt(max(of_seeds + added, of_images) / (n * images))
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(centre) / error))
    return TwoWay(n, images, centre, Interval(centre - half, centre + half), p, error, freedom, floor)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """McNemar's exact two-sided p value (1947): whether two networks differ in accuracy on images like these.

    Of the images that only one of the two classifies rightly, each is that one's with probability 1/2 if they do not
    differ. It is a test over images, for these two networks: about other seeds it says nothing.

    Parameters
    ----------
    first, second : array of bool, images
        Which images each classifies rightly.

    Returns
    -------
    float
        1 where no image tells them apart.

    Raises
    ------
    InputError
        For arrays of different shapes.
    """
    (one,), (other,) = _networks(first, second)
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    both = only_one + only_other
    return min(1.0, 2 * float(bdtr(min(only_one, only_other), both, 0.5))) if both else 1.0


def agreement(first: ArrayLike, second: ArrayLike) -> Agreement:
    """On how many images two arms agree, and how many of the second one's the first one loses.

    Parameters
    ----------
    first, second : array of bool, seeds × images, or images
        Which images they classify rightly; row for row with the same seed.

    Returns
    -------
    Agreement

    Raises
    ------
    InputError
        For arrays of different shapes.
    """
    one, other = _networks(first, second)
    same = (one == other).mean(1)
    right, wrong = one.mean(1) * other.mean(1), (1 - one.mean(1)) * (1 - other.mean(1))
    chance = right + wrong
    kappas = [(s - c) / (1 - c) for s, c in zip(same.tolist(), chance.tolist(), strict=True) if c < 1]
    kept = other.sum(1)
    lost = (other & ~one).sum(1)[kept > 0] / kept[kept > 0]
    return Agreement(
        share=float(same.mean()),
        kappa=float(np.mean(kappas)) if kappas else None,
        lost=float(lost.mean()) if len(lost) else None,
    )


def lost_between_seeds(networks: ArrayLike) -> float | None:
    """The part of a network's right images that the same arm with another seed classifies wrongly; the mean over pairs.

    What another arm loses is to be seen beside it. None for fewer than two seeds, or without a right image.

    Parameters
    ----------
    networks : array of bool, seeds × images
        Which images each classifies rightly.
    """
    rows, _ = _networks(networks, networks)
    kept = rows.sum(1)
    if len(rows) < 2 or not kept.all():
        return None
    shared = rows.astype(np.float64) @ rows.T
    parts = 1 - shared / kept[:, None]
    return float(parts.sum() / (len(rows) * (len(rows) - 1)))  # a network loses nothing of its own


def interquartile_mean(
    values: Mapping[Target, Sequence[float]],
    confidence: float = CONFIDENCE,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> InterquartileMean:
    """The mean of the middle half of all values, with a bootstrap over the seeds of each target (Agarwal et al. 2021).

    A quarter of the values, rounded down, is left out at either end, so that one target on which everything fails does
    not decide. The percentile interval resamples the values of every target by themselves: it is for other seeds, not
    for other targets. With few seeds it is too narrow.

    Parameters
    ----------
    values : Mapping[Target, Sequence[float]]
        Target → a value for each seed, such as paired differences.
    confidence : float, default 0.95
        Of the interval.
    resamples, seed : int
        Of the bootstrap; the same seed gives the same interval.

    Returns
    -------
    InterquartileMean
        Without an interval where no target has two values.

    Raises
    ------
    InputError
        Without a value, and for one that is not finite.
    """
    groups = [np.asarray(list(found), dtype=np.float64) for found in values.values() if len(found)]
    if not groups:
        raise InputError("values are missing", where="interquartile_mean", expected="at least one number")
    everything = np.concatenate(groups)
    if not np.isfinite(everything).all():
        raise InputError("a value is not finite", where="interquartile_mean", expected="finite numbers")
    value = float(_middle(everything[None])[0])
    if max(map(len, groups)) < 2:
        return InterquartileMean(len(everything), value, None)
    random = np.random.default_rng(seed)
    drawn = np.concatenate([found[random.integers(len(found), size=(resamples, len(found)))] for found in groups], 1)
    low, high = np.quantile(_middle(drawn), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return InterquartileMean(len(everything), value, Interval(float(low), float(high)))


def _middle(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each row without the quarter at either end."""
    cut = rows.shape[1] // 4
    return np.asarray(np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut].mean(1))


def _networks(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two arms as seeds × images."""
    one, other = (np.atleast_2d(np.asarray(rows)) for rows in (first, second))
    if one.shape != other.shape or one.ndim != 2 or one.dtype != np.bool_ or other.dtype != np.bool_:
        found = f"{one.dtype} of shape {one.shape} and {other.dtype} of shape {other.shape}"
        raise InputError(found, where="images", expected="two boolean arrays of the same shape, seeds × images")
    if one.shape[1] < 2:
        raise InputError(f"{one.shape[1]} images", where="images", expected="at least 2")
    return one, other
