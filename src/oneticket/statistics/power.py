"""The power of the paired t test: which difference n seeds show, and how many seeds show a difference."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, ndtr, ndtri, stdtrit

from oneticket.errors import InputError
from oneticket.statistics.seeds import CONFIDENCE

POWER = 0.8
"""How often a difference is to be shown that is there."""
MOST_SEEDS = 100_000
_NARROW = 1e-12  # relative width at which bisection ends
_NODES = 400


def achieved(n: int, effect: float, confidence: float = CONFIDENCE, *, two_sided: bool = True) -> float:
    """The power of the paired t test: how often it shows a difference of ``effect`` standard deviations.

    With ``ν = n − 1`` degrees of freedom and ``δ = |effect| √n``, ``P(|T| > t(1 − α/2; ν))`` for T noncentral t with
    noncentrality δ (Johnson & Welch 1940).

    Parameters
    ----------
    n : int
        Pairs, at least 2.
    effect : float
        The mean difference over the standard deviation of the differences.
    confidence : float, default 0.95
        1 − α.
    two_sided : bool, default True
        False for a test against a bound, which shows a difference on one side only: t(1 − α; ν).

    Returns
    -------
    float

    Raises
    ------
    InputError
        For fewer than two pairs.
    """
    if n < 2:
        raise InputError(f"a power for {n} pairs", where="power", expected="at least 2 seeds")
    tail = 0.5 + confidence / 2 if two_sided else confidence
    beyond, shift = float(stdtrit(n - 1, tail)), abs(effect) * math.sqrt(n)
    # T = (Z + δ) / V; scipy's noncentral t gives NaN from δ = 8 on, so V is integrated out here.
    v, weights = _spreads(n - 1)
    shown = ndtr(shift - beyond * v)
    return float(weights @ (shown + ndtr(-shift - beyond * v) if two_sided else shown))


def smallest_detectable(n: int, spread: float, power: float = POWER, confidence: float = CONFIDENCE) -> float:
    """The smallest difference that a paired t test over n seeds shows with this power.

    Parameters
    ----------
    n : int
        Pairs, at least 2.
    spread : float
        The standard deviation of the differences.
    power : float, default 0.8
        Between 1 − confidence and 1.
    confidence : float, default 0.95
        1 − α. For the hardest of m tests under Holm's correction α is 0.05 / m.

    Returns
    -------
    float
        In the unit of ``spread``.
    """
    return spread * _effect(n, power, confidence)


def seeds_needed(
    difference: float,
    spread: float,
    power: float = POWER,
    confidence: float = CONFIDENCE,
    *,
    two_sided: bool = True,
    most: int = MOST_SEEDS,
) -> int | None:
    """The fewest seeds with which a paired t test shows this difference with this power.

    Parameters
    ----------
    difference, spread : float
        The mean difference, and the standard deviation of the differences.
    power : float, default 0.8
        Between 1 − confidence and 1.
    confidence : float, default 0.95
        1 − α.
    two_sided : bool, default True
        False where ``difference`` is the distance from a bound, tested on one side.
    most : int, default 100,000
        More are not looked for.

    Returns
    -------
    int or None
        At least 2; None without a difference, and where it would take more than ``most``.
    """
    if not difference:
        return None
    effect = abs(difference) / spread if spread else math.inf
    if achieved(2, min(effect, 1e6), confidence, two_sided=two_sided) >= power:
        return 2
    # The t test needs more than the normal test does, so this is a lower bound, and a close one.
    normal = float(ndtri(0.5 + confidence / 2 if two_sided else confidence) + ndtri(power))
    if effect * math.sqrt(most) < normal:
        return None
    n = max(2, math.floor((normal / effect) ** 2))
    while achieved(n, effect, confidence, two_sided=two_sided) < power:
        n += 1
    return n if n <= most else None


@lru_cache(maxsize=256)
def _spreads(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of V = √(χ²/ν) and their weights, by Gauss and Legendre where V has its mass."""
    nodes, weights = _legendre()
    reach = 14 / math.sqrt(2 * freedom)
    low, high = max(0.0, 1 - reach), 1 + reach
    v = low + (high - low) * (nodes + 1) / 2
    half = freedom / 2
    density = np.log(2) + half * np.log(half) - gammaln(half) + (freedom - 1) * np.log(v) - half * v * v
    return v, weights * (high - low) / 2 * np.exp(density)


@lru_cache(maxsize=1)
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(_NODES)


@lru_cache(maxsize=256)
def _effect(n: int, power: float, confidence: float) -> float:
    if not 1 - confidence < power < 1:
        raise InputError(f"a power of {power}", where="power", expected=f"a number between {1 - confidence:g} and 1")
    low, high = 0.0, 1.0
    while achieved(n, high, confidence) < power:
        low, high = high, 2 * high
    while high - low > _NARROW * high:
        middle = (low + high) / 2
        low, high = (low, middle) if achieved(n, middle, confidence) >= power else (middle, high)
    return high
