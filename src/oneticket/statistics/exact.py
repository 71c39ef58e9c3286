"""Exact tests: the sign-flip test of paired differences, for which nothing need be normal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from oneticket.statistics.seeds import UNRESOLVED, Seed, paired

LONGEST = 16
"""With more pairs the signs are too many to go through, and the t test has nothing to fear from their distribution."""


def sign_flip(first: Mapping[Seed, float], second: Mapping[Seed, float], *, images: int | None = None) -> float | None:
    """The exact two-sided p value of the paired differences under all 2ⁿ choices of their signs (Fisher 1935).

    The share of the choices whose sum is at least as far from zero as the sum seen. It is valid if the difference of
    each pair is as likely as its opposite, whatever its distribution; it can't be below 2/2ⁿ, which is above 0.05 for
    fewer than six pairs.

    Parameters
    ----------
    first, second : Mapping[Seed, float]
        Values by seed; the seeds that both have are compared.
    images : int, optional
        Where the values are accuracies, over how many images each: sums are then compared as whole numbers of images.

    Returns
    -------
    float or None
        None without a common seed, and for more than :data:`LONGEST` pairs.
    """
    differences = np.array(paired(first, second))
    if not 0 < len(differences) <= LONGEST:
        return None
    unit = 1.0 if images is None else 1 / images
    differences = differences / unit if images is None else np.rint(differences / unit)
    # The first sign stays: all others turned round give the same distance from zero.
    sums = differences[:1]
    for difference in differences[1:]:
        sums = np.concatenate([sums + difference, sums - difference])
    seen = abs(differences.sum())
    tolerance = UNRESOLVED * max(1.0, float(np.abs(differences).max())) if images is None else 0.5
    return float(np.mean(np.abs(sums) >= seen - tolerance))
