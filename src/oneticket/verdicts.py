"""Verdicts: whether paired tests over seeds support a claim, contradict it, or leave it open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scipy.special import stdtrit

from oneticket.errors import InputError
from oneticket.statistics import CONFIDENCE, POWER, Difference, equivalence, holm, paired_difference, seeds_needed

LEVEL = 1 - CONFIDENCE
"""A place counts as shown where Holm's p over the places of its claim is at most this."""

MOST_SEEDS = 1000
"""More seeds than this are not asked for."""

Word = Literal["supported", "contradicted", "not decided"]
Outcome = Literal["shown", "opposite", "open"]


@dataclass(frozen=True)
class Place:
    """Where a claim is tested: the test accuracies of its two sides by seed, and the networks that are not there.

    ``images`` is the size of the test split, of which accuracies are fractions; None where it is not known.
    """

    where: str
    first: Mapping[int, float]
    second: Mapping[int, float]
    missing: tuple[str, ...] = ()
    images: int | None = None


@dataclass(frozen=True)
class Tested:
    """A claim at one place; ``difference`` is in fractions, ``p`` after Holm's correction over the claim's places.

    ``p`` is that of what the outcome says: of the direction claimed or its opposite, of equivalence or of a difference
    beyond the margin. ``seeds`` are those with which a test like this one would decide; None where more than
    :data:`MOST_SEEDS` are needed or nothing can be said.
    """

    where: str
    difference: Difference | None
    p: float | None
    outcome: Outcome
    seeds: int | None = None


@dataclass(frozen=True)
class Question:
    """What is claimed: a direction of the difference between two sides, or equality within ``margin`` (a fraction).

    ``late`` says what was known when the claim was made; it is empty for a claim that came before the first network.
    """

    says: str
    comparison: str
    direction: Literal["better", "worse"] | None = None
    margin: float | None = None
    experiment: str = ""
    late: str = ""

    def __post_init__(self) -> None:
        if (self.direction is None) == (self.margin is None):
            raise InputError("a question needs a direction or a margin", where=self.says, expected="one of the two")

    @property
    def asks(self) -> str:
        """What is tested, in words: ``winning better than random``."""
        first, second = self.comparison.split(" − ")
        if self.margin is not None:
            return f"{first} within ±{100 * self.margin:g} points of {second}"
        return f"{first} {self.direction} than {second}"


@dataclass(frozen=True)
class Verdict:
    """The answer to a question: the word, the tests behind it, and what an open one lacks."""

    question: Question
    word: Word
    tests: tuple[Tested, ...]
    lacks: tuple[str, ...] = field(default=())


def judge(question: Question, places: Sequence[Place]) -> Verdict:
    """The verdict on a question.

    Supported: shown at every place. Contradicted: the opposite is shown at one place or more. Otherwise not decided,
    and not decided while a network is missing: a look at half of the seeds would be a test more.

    A direction is shown where the paired t test over seeds has that sign and Holm's p over the places is at most 0.05.
    Equality is shown where both one-sided tests (TOST) put the difference within the margin; its opposite where the
    paired t test puts it beyond.

    Parameters
    ----------
    question : Question
        What is claimed.
    places : Sequence[Place]
        At least one.

    Raises
    ------
    InputError
        Without a place.
    """
    if not places:
        raise InputError("a claim without a place", where=question.says, expected="at least one")
    missing = [network for place in places for network in place.missing]
    tests = _tests(question, places)
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        several = "networks are" if len(missing) > 1 else "network is"
        open_ones = tuple(Tested(test.where, test.difference, test.p, "open") for test in tests)
        return Verdict(question, "not decided", open_ones, (f"{len(missing)} {several} not there: {shown}",))
    if any(test.outcome == "opposite" for test in tests):
        return Verdict(question, "contradicted", tests)
    if all(test.outcome == "shown" for test in tests):
        return Verdict(question, "supported", tests)
    return Verdict(question, "not decided", tests, _lacks(question, tests))


def _tests(question: Question, places: Sequence[Place]) -> tuple[Tested, ...]:
    differences = [paired_difference(place.first, place.second, images=place.images) for place in places]
    if question.margin is None:
        shown = [(d.p, _sign(d.mean)) if d is not None else (None, 0) for d in differences]
        wanted = 1 if question.direction == "better" else -1
        adjusted = _adjusted([p for p, _ in shown])
        outcomes = [
            _outcome(p if sign == wanted else None, p if sign == -wanted else None)
            for p, (_, sign) in zip(adjusted, shown, strict=True)
        ]
    else:
        within = [equivalence(place.first, place.second, question.margin, images=place.images) for place in places]
        equal = _adjusted([test.p if test is not None else None for test in within])
        beyond = _adjusted([_beyond(place, d, question.margin) for place, d in zip(places, differences, strict=True)])
        outcomes = [_outcome(e, b) for e, b in zip(equal, beyond, strict=True)]
        adjusted = [b if outcome == "opposite" else e for e, b, outcome in zip(equal, beyond, outcomes, strict=True)]
    return tuple(
        Tested(place.where, d, p, outcome, _seeds(question, d, len(places)) if outcome == "open" else None)
        for place, d, p, outcome in zip(places, differences, adjusted, outcomes, strict=True)
    )


def _beyond(place: Place, difference: Difference | None, margin: float) -> float | None:
    """The p value of a difference beyond the margin, on the side on which its mean lies; 1 for a mean within."""
    if difference is None or difference.p is None:
        return None
    if abs(difference.mean) <= margin:
        return 1.0
    bound = math.copysign(margin, difference.mean)
    moved = {seed: value - bound for seed, value in place.first.items()}
    shifted = paired_difference(moved, place.second, images=place.images)
    return shifted.p if shifted is not None else None


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's p values; a place without a test stays without."""
    tested = [p for p in p_values if p is not None]
    adjusted = iter(holm(tested))
    return [next(adjusted) if p is not None else None for p in p_values]


def _outcome(shown: float | None, opposite: float | None) -> Outcome:
    if shown is not None and shown <= LEVEL:
        return "shown"
    return "opposite" if opposite is not None and opposite <= LEVEL else "open"


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _seeds(question: Question, difference: Difference | None, places: int) -> int | None:
    """The seeds that would decide, were mean and deviation of the differences what they are now."""
    if difference is None or difference.interval is None:
        return None
    half = (difference.interval.high - difference.interval.low) / 2
    spread = half * math.sqrt(difference.n) / float(stdtrit(difference.n - 1, 0.5 + CONFIDENCE / 2))
    level = LEVEL / places
    if question.margin is None:
        return seeds_needed(difference.mean, spread, POWER, 1 - level, most=MOST_SEEDS)
    distance = question.margin - abs(difference.mean)
    return seeds_needed(distance, spread, POWER, 1 - level, two_sided=distance < 0, most=MOST_SEEDS)


def _lacks(question: Question, tests: Sequence[Tested]) -> tuple[str, ...]:
    """What would decide: seeds, or nothing where the differences point the other way."""
    left = [test for test in tests if test.outcome == "open"]
    if any(test.difference is None or test.difference.p is None for test in left):
        return ("a single seed, or differences that are all equal, decide nothing: at least 2 are needed, 6 are usual",)
    found = []
    if other := [test.where for test in left if _points_away(question, test)]:
        found.append(f"the difference points the other way at {_listed(other)}")
    numbers = [test.seeds for test in left if test.seeds is not None]
    if len(numbers) == len(left):
        found.append(f"about {max(numbers)} seeds would decide, if the differences stay as they are (80 % power)")
    else:
        found.append(f"more than {MOST_SEEDS} seeds would be needed, if the differences stay as they are (80 % power)")
    return tuple(found)


def _points_away(question: Question, test: Tested) -> bool:
    assert test.difference is not None
    if question.margin is not None:
        return abs(test.difference.mean) > question.margin
    return _sign(test.difference.mean) == (-1 if question.direction == "better" else 1)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
