"""Tuning: the candidates that are tried for each arm of a grid, so that arms are compared at their best."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import msgspec

from oneticket.errors import InputError, nearest
from oneticket.lab.spec.arms import Arm
from oneticket.methods import METHODS, MethodContext, callback_of, method_options, numeric_options
from oneticket.training import Recipe

Value = float | int
Axes = dict[str, tuple[Value, ...]]

RATE, TRIALS = "lr", "trials"
"""The keys of ``tune`` that are not options of a method: the learning rate, and how many candidates an arm has."""

MOST_TRIALS = 1000
"""Maximum of candidates of one arm: more are surely a slip."""

_GOLDEN = (math.sqrt(5) - 1) / 2


class Candidate(msgspec.Struct, frozen=True):
    """One of the settings that are tried for an arm.

    Parameters
    ----------
    arm : the arm with these options.
    lr : the learning rate on the target; None for the recipe's.
    text : the setting, such as ``lr=0.05, strength=0.01``; empty where nothing is tuned.
    edges : the keys whose value is the least or the greatest of several that are tried.
    count : how many settings are tried for the arm.
    """

    arm: Arm
    lr: float | None = None
    text: str = ""
    edges: tuple[str, ...] = ()
    count: int = 1


def candidates(arm: Arm, axes: Axes, trials: int | None = None) -> list[Candidate]:
    """The settings to try for an arm, in the order of the product of its axes.

    Parameters
    ----------
    arm : Arm
        The arm as it stands in the file.
    axes : dict of str to tuple of number
        What is tuned: ``lr`` and options of its method, each with its values.
    trials : int, optional
        How many settings; the whole product when None, or when it has no more.

    Returns
    -------
    list of Candidate
        At least one. A part of the product is :func:`spread` over it.
    """
    chosen = list(spread([len(values) for values in axes.values()], trials))
    settings = [dict(zip(axes, (axes[k][i] for k, i in zip(axes, at, strict=True)), strict=True)) for at in chosen]
    return [_candidate(arm, setting, settings) for setting in settings]


def _candidate(arm: Arm, setting: dict[str, Value], settings: Sequence[Mapping[str, Value]]) -> Candidate:
    options = {key: value for key, value in setting.items() if key != RATE}
    edges = []
    for key, value in setting.items():
        tried = {other[key] for other in settings}
        if len(tried) > 1 and value in (min(tried), max(tried)):
            edges.append(key)
    return Candidate(
        arm=msgspec.structs.replace(arm, options={**arm.options, **options}) if options else arm,
        lr=float(setting[RATE]) if RATE in setting else None,
        text=", ".join(f"{key}={value!r}" for key, value in setting.items()),
        edges=tuple(edges),
        count=len(settings),
    )


def spread(lengths: Sequence[int], count: int | None = None) -> list[tuple[int, ...]]:
    """``count`` points of a grid, each value of each axis as equally often as possible.

    As in a Latin hypercube (McKay et al. 1979), but without chance: the points lie on lines that go around the grid
    with a step along each axis that is coprime to its length, so that any stretch of a line meets the values of an axis
    in turn. The next line begins where it meets the fewest pairs of values again. Of an axis with more values than
    points, evenly spaced ones are used.

    Parameters
    ----------
    lengths : sequence of int
        The number of values of each axis.
    count : int, optional
        How many points; all when None or not below their number.

    Returns
    -------
    list of tuple of int
        Indices along each axis, rising.

    >>> spread([3, 3], 3), spread([9], 3)
    ([(0, 0), (1, 2), (2, 1)], [(1,), (4,), (7,)])
    """
    if count is None or count >= math.prod(lengths):
        return list(product(*map(range, lengths)))
    kept = [_spaced(length, min(length, count)) for length in lengths]
    return sorted(
        tuple(axis[i] for axis, i in zip(kept, at, strict=True)) for at in _lines(list(map(len, kept)), count)
    )


def _lines(lengths: Sequence[int], count: int) -> Collection[tuple[int, ...]]:
    steps = [_coprime(length, place) for place, length in enumerate(lengths)]
    points: dict[tuple[int, ...], None] = {}
    pairs: set[object] = set()

    def pairs_of(point: tuple[int, ...]) -> set[object]:
        return set(combinations(enumerate(point), 2))

    starts = list(product((0,), *map(range, lengths[1:])))  # every line meets the first value of the first axis
    while len(points) < count:
        starts = [start for start in starts if start not in points]
        point = min(starts, key=lambda start: len(pairs_of(start) & pairs))
        while point not in points and len(points) < count:
            points[point] = None
            pairs |= pairs_of(point)
            point = tuple((i + step) % length for i, step, length in zip(point, steps, lengths, strict=True))
    return points


def _spaced(length: int, count: int) -> list[int]:
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]


def _coprime(length: int, place: int) -> int:
    """1 along the first axis; along another, the coprime number that is nearest to a golden part of the length."""
    goal = length * (place * _GOLDEN % 1)
    steps = [step for step in range(1, max(length, 2)) if math.gcd(step, length) == 1]
    return min(steps, key=lambda step: abs(step - goal)) if place else 1


def axes_of(tune: Mapping[str, Any], arm: Arm) -> Axes:
    """What ``tune`` says about an arm: the learning rate, if weights learn by it, and the options of its method."""
    known = tunable(arm)
    return {key: tuple(values) for key, values in tune.items() if key in known}


def tunable(arm: Arm) -> list[str]:
    """The keys that can be tuned for an arm: ``lr`` and its method's numbers, but not how often a recipe is run."""
    facts = METHODS.entry(arm.method).facts
    learns = facts.start != "end" and facts.trains == "weights"
    options = [key for key in numeric_options(arm.method) if not (facts.repeats and key == "cycles")]
    return [*([RATE] if learns else []), *options]


def check_tune(tune: Mapping[str, Any], arms: Mapping[str, Arm], recipes: Iterable[Recipe], where: str) -> None:
    """Refuse a ``tune`` that no arm can follow.

    Parameters
    ----------
    tune : the table.
    arms : the arms of its grid, ``dense`` included.
    recipes : those of its targets.
    where : its place in the file.

    Raises
    ------
    InputError : a key that no arm has, a value that its method refuses, too many candidates.
    """
    known = list(dict.fromkeys(key for arm in arms.values() for key in tunable(arm)))
    for key, values in tune.items():
        if key == TRIALS:
            if not isinstance(values, int) or isinstance(values, bool) or not 1 <= values <= MOST_TRIALS:
                expected = f"a whole number from 1 to {MOST_TRIALS}"
                raise InputError(f"trials = {values!r}", where=f"{where}.{key}", expected=expected)
            continue
        if key not in known:
            raise InputError(
                f"no arm of the grid has '{key}'",
                where=where,
                expected=f"one of {', '.join([*known, TRIALS])}",
                nearest=nearest(key, known),
            )
        _check_values(key, values, f"{where}.{key}")
    if not set(tune) - {TRIALS}:
        raise InputError("nothing to try", where=where, expected=f"lists of values for some of {', '.join(known)}")
    for arm in arms.values():
        axes = axes_of(tune, arm)
        for recipe in recipes:
            for key, value in ((key, value) for key, values in axes.items() for value in values if key != RATE):
                _check_option(arm, key, value, recipe, f"{where}.{key}")
        if min(tune.get(TRIALS, math.inf), math.prod(map(len, axes.values()))) > MOST_TRIALS:
            raise InputError("too many candidates", where=where, expected=f"at most {MOST_TRIALS}, or trials")


def most_trials(tune: Mapping[str, Any]) -> int:
    """The most settings that an arm can have; the values need not have been checked."""
    whole = math.prod(len(values) for values in tune.values() if isinstance(values, list | tuple))
    asked = tune.get(TRIALS)
    return max(min(whole, asked) if isinstance(asked, int) else whole, 1)


def _check_values(key: str, values: Any, where: str) -> None:
    numbers = isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)
    if not numbers or not values or len(set(values)) != len(values):
        raise InputError(f"{key} = {values!r}", where=where, expected="a list of numbers, each once")
    if key == RATE and not all(0 < value < math.inf for value in values):
        raise InputError(f"{key} = {list(values)}", where=where, expected="numbers above 0, each once")


def _check_option(arm: Arm, key: str, value: Value, recipe: Recipe, where: str) -> None:
    """Refuse a value as the method itself does."""
    try:
        options = method_options(arm.method, {**arm.options, key: value})
        callback_of(arm.method, MethodContext(density=0.5, head="", recipe=recipe), options)
    except InputError as error:
        raise InputError(error.what, where=where, expected=error.expected) from None


def tuned_twice(tunes: Iterable[tuple[str, Mapping[str, Any], Sequence[str]]], tables: Any) -> Iterator[InputError]:
    """The options that an arm of the file sets itself and that a grid with this arm tunes.

    Parameters
    ----------
    tunes : for each grid, its place in the file, its ``tune`` and its arms.
    tables : the tables of arms as parsed, without the defaults that are filled in later.
    """
    for where, tune, arms in tunes:
        for name in arms:
            for key in tables.get(name, {}).get("options", {}):
                if key in tune:
                    yield InputError(
                        f"the arm '{name}' has {key} of its own, which {where}.tune tries several values of",
                        where=f"arm.{name}.options.{key}",
                        expected="one of the two; another [[transfer]] for this arm",
                    )
