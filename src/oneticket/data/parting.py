"""Parting: which files or rows of a whole are for testing, by digests of their names or contents."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from oneticket.errors import InputError


def for_testing(names: Sequence[str], fraction: float, split: int) -> list[bool]:
    """Whether each name is for testing: ⌊fraction · n⌉ of the n names, at least one, and never all of them.

    The order of the digests decides, not that of the names: what is added or removed moves few others. Equal names are
    on one side.

    Parameters
    ----------
    names : Sequence of str
        Relative paths of files, or the contents of rows.
    fraction : float
        Above 0 and below 1.
    split : int
        The number of the random split.

    Raises
    ------
    InputError
        When fewer than two names differ.

    Examples
    --------
    >>> sum(for_testing([f"{number}.txt" for number in range(20)], 0.2, split=0))
    4
    """
    keys = [hashlib.sha256(f"oneticket/{split}/test/{name}".encode()).digest() for name in names]
    ordered = sorted(keys)
    if len(set(keys)) < 2:
        raise InputError(f"{len(keys)} cannot be parted into train and test", where="test", expected="two or more")
    count = min(max(1, math.floor(fraction * len(keys) + 0.5)), len(keys) - 1)
    least = ordered[count]  # the first that is trained on
    if least == ordered[0]:  # the names before it are all equal to it
        least = next(key for key in ordered if key != least)
    return [key < least for key in keys]
