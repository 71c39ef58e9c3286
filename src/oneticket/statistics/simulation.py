"""How often the intervals hold the truth and stars appear by chance, by simulation of tables without any difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import stdtr

from oneticket.statistics.seeds import CONFIDENCE

SEEDS = (2, 3, 5, 6, 10)
ACCURACIES = (0.5, 0.9, 0.99)
IMAGES = (300, 1000, 3000, 10_000)
FAMILY = 4
"""Comparisons of a simulated table, each with a baseline of its own."""


@dataclass(frozen=True)
class Rates:
    """What was seen in ``tables`` simulated tables; all but the first five are fractions of 1.

    ``shared`` says whether all networks are judged on one test split or each on one of its own. ``mean`` and
    ``difference`` are how often the 95 % intervals of a mean accuracy and of a paired difference hold the truth,
    ``family`` is how many tables have a star. ``raw_…`` are the same without the variance of rounding, the p value of
    equal differences being 0.
    """

    n: int
    accuracy: float
    images: int
    shared: bool
    tables: int
    mean: float
    difference: float
    family: float
    raw_mean: float
    raw_difference: float
    raw_family: float


def simulate(
    *,
    tables: int = 10_000,
    seed: int = 0,
    seeds: Sequence[int] = SEEDS,
    accuracies: Sequence[float] = ACCURACIES,
    images: Sequence[int] = IMAGES,
) -> list[Rates]:
    """Tables of :data:`FAMILY` comparisons in which nothing differs, for each setting.

    A network of accuracy a is right on each image of its own test split with probability a. On a shared one the images
    differ: a part u = min(a, 1 − a) of them is right or wrong as chance has it, the others are always right or always
    wrong, so that the networks agree on most images. The truth is then their mean accuracy on that split.

    Parameters
    ----------
    tables : int, default 10,000
        For each setting.
    seed : int, default 0
        Of the random numbers.
    seeds, accuracies, images : Sequence, optional
        The numbers of seeds, the accuracies and the sizes of the test split.

    Returns
    -------
    list of Rates
        In the order of shared, images, accuracies, seeds.
    """
    random = np.random.default_rng(seed)
    return [
        _rates(random, n, accuracy, size, shared=shared, tables=tables)
        for shared, size, accuracy, n in product((False, True), images, accuracies, seeds)
    ]


def _rates(random: np.random.Generator, n: int, accuracy: float, images: int, *, shared: bool, tables: int) -> Rates:
    counts, truth = _counts(random, (tables, FAMILY, 2, n), accuracy, images, shared=shared)
    first = counts[:, 0, 0]
    differences = counts[:, :, 0] - counts[:, :, 1]
    found = {}
    for name, resolution in (("", 1 / 12), ("raw_", 0.0)):
        p = _p(differences, 2 * resolution)
        found[name + "mean"] = float(np.mean(_p(first - truth, resolution) > 1 - CONFIDENCE))
        found[name + "difference"] = float(np.mean(p > 1 - CONFIDENCE))
        # Holm rejects something iff it rejects the smallest p value.
        found[name + "family"] = float(np.mean(FAMILY * p.min(axis=1) <= 1 - CONFIDENCE))
    return Rates(n, accuracy, images, shared, tables, **found)


def _counts(
    random: np.random.Generator, shape: tuple[int, ...], accuracy: float, images: int, *, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Images that are classified rightly, and what they are on average, for each table."""
    column = (shape[0],) + (1,) * (len(shape) - 1)
    if not shared:
        return random.binomial(images, accuracy, shape), np.full((shape[0], 1), accuracy * images)
    uncertain = min(accuracy, 1 - accuracy)
    open_ones = random.binomial(images, uncertain, column)
    always = random.binomial(images - open_ones, (accuracy - uncertain / 2) / (1 - uncertain))
    right = always + random.binomial(np.broadcast_to(open_ones, shape), 0.5)
    return right, (always + open_ones / 2).reshape(-1, 1)


def _p(values: np.ndarray, resolution: float) -> np.ndarray:
    """Two-sided p values of means of zero over the last axis; of equal values without resolution, 0, or 1 at zero."""
    n = values.shape[-1]
    centre, variance = values.mean(axis=-1), values.var(axis=-1, ddof=1) + resolution
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(centre == 0, 0.0, np.abs(centre) * np.sqrt(n / variance))
    return np.asarray(2 * stdtr(n - 1, -t))
