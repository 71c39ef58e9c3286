"""How much the differences of an arm scatter over seeds, and how many seeds that takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oneticket.report.baselines import USUAL, parse
from oneticket.report.formatting import Table, percent
from oneticket.report.groups import NONE
from oneticket.report.palette import arm_order
from oneticket.report.tables import Row, accuracies_of, differences, grouped, images_of
from oneticket.statistics import CONFIDENCE, POWER, mean, seeds_needed, smallest_detectable

SHOWN_FOR = (3, 6, 10)
"""Numbers of seeds for which the table says what they show."""


class Spread(NamedTuple):
    """The spread of an arm's differences from a baseline, pooled over ``places`` (sources, targets, densities).

    ``spread``, the root of the mean variance, and ``shown`` (for each of :data:`SHOWN_FOR`) are fractions of 1;
    ``seeds`` is how many show the difference that was asked about, None for more than 100,000.
    """

    arm: str
    against: str
    places: int
    spread: float
    seeds: int | None
    shown: tuple[float, ...]


def spreads(
    rows: Iterable[Row], against: Sequence[str] = USUAL, difference: float = 0.005, tests: int = 1
) -> list[Spread]:
    """The spread of each arm against each baseline; comparisons without one are left out.

    Parameters
    ----------
    rows : Iterable[Row]
        The tidy table.
    against : Sequence[str], optional
        The baselines, as :meth:`Baseline.parse` reads them.
    difference : float, default 0.005
        The difference to be shown, a fraction of 1.
    tests : int, default 1
        How many comparisons are looked at together: each is tested at 5 % over this number.

    Returns
    -------
    list of Spread
        Baseline by baseline, the arms in the order of a report.
    """
    groups = grouped(rows)
    accuracies, images = accuracies_of(groups), images_of(groups)
    found, confidence = [], 1 - (1 - CONFIDENCE) / tests
    for baseline in parse(against, groups):
        variances: dict[str, list[float]] = {}
        for family in differences(baseline, accuracies, images).values():
            for group, seen in family.items():
                if seen.spread is not None:
                    variances.setdefault(group.arm, []).append(seen.spread**2)
        for arm in sorted(variances, key=arm_order):
            spread = math.sqrt(mean(variances[arm]))
            shown = tuple(smallest_detectable(n, spread, POWER, confidence) for n in SHOWN_FOR)
            seeds = seeds_needed(difference, spread, POWER, confidence)
            found.append(Spread(arm, baseline.label, len(variances[arm]), spread, seeds, shown))
    return found


def spread_table(rows: Sequence[Spread], difference: float) -> Table:
    """The spreads as text, in points."""
    return Table(
        header=(
            "arm", "against", "places", "spread", f"seeds for {percent(difference)}",
            *(f"{n} seeds show" for n in SHOWN_FOR),
        ),
        lines=tuple(
            (
                row.arm, row.against, str(row.places), percent(row.spread),
                NONE if row.seeds is None else f"{row.seeds:,}", *map(percent, row.shown),
            )
            for row in rows
        ),
        numeric=(False, False, *(True for _ in range(3 + len(SHOWN_FOR)))),
    )  # fmt: skip
