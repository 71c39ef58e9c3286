"""What a comparison says of the test images: which of them the two arms classify rightly, network by network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneticket.statistics import agreement, lost_between_seeds, mcnemar, two_way

Correct = Callable[[str], NDArray[np.bool_] | None]
"""Cell → which test images its network classifies rightly; None where it has not told."""


@dataclass(frozen=True)
class OverImages:
    """Fields of a comparison that need to know which images are classified rightly; None where it is not known.

    Parameters
    ----------
    two_way_low, two_way_high, p_two_way : float or None
        The 95 % interval of the difference for other seeds and other test images, and its p value, of one test.
    noise_floor : float or None
        Half the width of the 95 % interval over images alone: what the choice of test images may do to it.
    p_mcnemar : float or None
        With one seed, McNemar's exact p value: whether these two networks differ on other images.
    agreement, kappa : float or None
        The share of images that both classify rightly or both wrongly, and Cohen's kappa; means over the seeds.
    lost : float or None
        The part of the baseline's right images that the arm classifies wrongly; the mean over the seeds.
    lost_between_seeds : float or None
        What the baseline loses so with another seed.
    """

    two_way_low: float | None = None
    two_way_high: float | None = None
    p_two_way: float | None = None
    noise_floor: float | None = None
    p_mcnemar: float | None = None
    agreement: float | None = None
    kappa: float | None = None
    lost: float | None = None
    lost_between_seeds: float | None = None


UNKNOWN = OverImages()


def over_images(first: Mapping[Any, str], second: Mapping[Any, str] | None, correct: Correct | None) -> OverImages:
    """The fields for two arms, given the cells of their networks by seed.

    All are None unless every network of a seed that both have tells its images: an arm is not judged by those of its
    networks that did not diverge.
    """
    if correct is None or second is None:
        return UNKNOWN
    networks = [(correct(first[seed]), correct(second[seed])) for seed in first if seed in second]
    one, other = [a for a, _ in networks if a is not None], [b for _, b in networks if b is not None]
    if not networks or len(one) + len(other) < 2 * len(networks) or len({len(bits) for bits in (*one, *other)}) > 1:
        return UNKNOWN
    rows, others = np.stack(one), np.stack(other)
    found, agreed = two_way(rows, others), agreement(rows, others)
    return OverImages(
        two_way_low=found.interval.low if found.interval is not None else None,
        two_way_high=found.interval.high if found.interval is not None else None,
        p_two_way=found.p,
        noise_floor=found.floor,
        p_mcnemar=mcnemar(rows[0], others[0]) if len(rows) == 1 else None,
        agreement=agreed.share,
        kappa=agreed.kappa,
        lost=agreed.lost,
        lost_between_seeds=lost_between_seeds(others),
    )


def reading_of_images(found: Iterable[OverImages], *, asked: bool) -> list[str]:
    """How the columns about images are to be read, and which comparisons lack them.

    Parameters
    ----------
    found : Iterable[OverImages]
        Those of a table.
    asked : bool
        Whether there was a store to ask; a table in CSV does not know the images.
    """
    rows = list(found)
    known = [row for row in rows if row != UNKNOWN]
    told = []
    if known:
        told.append(
            "On other images: the 95 % interval of the difference for other seeds and other test images; the one "
            "beside the difference is for other seeds on these. Floor: how much of it the choice of test images alone "
            "may be. Lost: the part of the baseline's right images that the arm gets wrong, and in brackets what the "
            "baseline loses with another seed."
        )
    if any(row.p_mcnemar is not None for row in known):
        told.append(
            "With one seed, p (McNemar) says whether these two networks differ on other images. Whether the arms "
            "differ, no single seed can say: nothing is decided by it."
        )
    if asked and len(known) < len(rows):
        told.append(
            f"{len(rows) - len(known)} of {len(rows)} comparisons lack what needs the test images one by one: a "
            "network of theirs diverged, does not classify, or was finished by a version that did not write them down."
        )
    return told
