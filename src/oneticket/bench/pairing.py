"""Paired measurement: contestants take turns, A B A B …, and are compared turn by turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values of the repetitions: their median, the smallest and the largest, and all of them in order."""

    median: float
    low: float
    high: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.0, high=3.0, values=[3.0, 1.0, 2.0])
        """
        return cls(statistics.median(values), min(values), max(values), list(values))


def in_turns(
    contestants: Mapping[str, Callable[[], float]], repeats: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """The values that each contestant measured in ``repeats`` turns.

    In a turn each contestant runs once, in the order given, so that a disturbance that lasts longer than a turn slows
    all of them. ``say`` is called with a line at each turn.
    """
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(1, repeats + 1):
        say(f"turn {turn} of {repeats}")
        for name, measure in contestants.items():
            measured[name].append(measure())
    return measured


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """``slower / faster`` turn by turn: how many times as fast the second is.

    Use the median of these ratios, not a ratio of medians: a turn in which the machine was slow then counts no more
    than any other.

    >>> ratio([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]).median
    2.0
    """
    return Spread.of([a / b for a, b in zip(slower, faster, strict=True)])
