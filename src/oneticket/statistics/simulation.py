"""How often the intervals hold the truth and stars appear by chance, by simulation of tables without any difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import ndtri, stdtr

from oneticket.statistics.images import two_way
from oneticket.statistics.seeds import CONFIDENCE, paired_difference

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


@dataclass(frozen=True)
class ImageRates:
    """How often 95 % intervals of a difference held the truth for other seeds and other images, in ``tables`` tables.

    ``two_way`` is over seeds and images, ``seeds_only`` over seeds alone, which is for the test split at hand.
    """

    n: int
    accuracy: float
    images: int
    tables: int
    two_way: float
    seeds_only: float


def simulate_images(
    *,
    tables: int = 2000,
    seed: int = 0,
    seeds: Sequence[int] = SEEDS,
    accuracies: Sequence[float] = ACCURACIES,
    images: Sequence[int] = (300, 1000),
) -> list[ImageRates]:
    """Two arms that do not differ over all images and seeds that there could be, judged on one sample of both.

    A network is right on an image where a standard normal sum exceeds a threshold: 70 % of its variance is how hard the
    image is, 10 % how hard it is for the arm, 19.9 % chance, 0.1 % the seed.

    Parameters
    ----------
    tables : int, default 2,000
        For each setting; each has one comparison.
    seed : int, default 0
        Of the random numbers.
    seeds, accuracies, images : Sequence, optional
        The numbers of seeds, the accuracies and the sizes of the test split.

    Returns
    -------
    list of ImageRates
        In the order of images, accuracies, seeds.
    """
    random = np.random.default_rng(seed)
    found = []
    for size, accuracy, n in product(images, accuracies, seeds):
        held = np.array([_held(*_arms(random, n, size, accuracy)) for _ in range(tables)])
        found.append(ImageRates(n, accuracy, size, tables, *map(float, held.mean(0))))
    return found


def _arms(random: np.random.Generator, n: int, images: int, accuracy: float) -> np.ndarray:
    """Which images are classified rightly: arms × seeds × images."""
    hard = random.normal(0, 0.7**0.5, images)
    for_arm = random.normal(0, 0.1**0.5, (2, 1, images))
    network = random.normal(0, 0.001**0.5, (2, n, 1))
    chance = random.normal(0, 0.199**0.5, (2, n, images))
    return np.asarray(hard + for_arm + network + chance < ndtri(accuracy))


def _held(first: np.ndarray, second: np.ndarray) -> tuple[bool, bool]:
    """Whether the intervals over seeds and images, and over seeds alone, hold a difference of zero."""
    over_seeds = paired_difference(
        dict(enumerate(first.mean(1))), dict(enumerate(second.mean(1))), images=len(first[0])
    )
    both, one = two_way(first, second).p, over_seeds.p if over_seeds is not None else None
    return both is None or both > 1 - CONFIDENCE, one is None or one > 1 - CONFIDENCE
