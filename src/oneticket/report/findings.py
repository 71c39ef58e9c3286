"""Findings: who won on each target, by how much and how sure that is; and what the table does not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from oneticket.report.baselines import Baseline
from oneticket.report.formatting import density, difference, interval, percent
from oneticket.report.groups import Section, at
from oneticket.report.palette import arm_order
from oneticket.report.tables import Comparison, SummaryRow

FEW = 6
"""Seeds below which intervals are wide."""


@dataclass(frozen=True)
class Answer:
    """Whether an arm is better than a baseline on one target: the verdict over all its places, and details."""

    verdict: str
    details: str


@dataclass(frozen=True)
class Finding:
    """What the table says of one target: an answer for each baseline, and the order of the arms."""

    section: Section
    answers: Sequence[Answer]
    order: str


def findings(rows: Sequence[SummaryRow]) -> list[Finding]:
    """A finding for each target, in the order of the table.

    The arm in question is ``winning`` or, without it, the first that is compared with something. A place is one source,
    density and rescaling. A difference is shown where the table has a star; where it is not, nothing is decided.

    Parameters
    ----------
    rows : Sequence[SummaryRow]
        The summary.
    """
    return [_finding(section, list(found)) for section, found in groupby(rows, key=lambda row: row.group.section)]


def overall(rows: Sequence[SummaryRow]) -> list[str]:
    """The verdicts over all targets together, one for each baseline."""
    arm = main_arm(rows)
    shown = [row for row in rows if row.group.arm == arm]
    return [answer.verdict for answer in _answers(arm or "", shown)]


def main_arm(rows: Sequence[SummaryRow]) -> str | None:
    """The arm whose differences are told first: ``winning``, or the first compared one; None without any."""
    arms = {row.group.arm for row in rows if row.group.arm != "dense" and any(row.versus.values())}
    return "winning" if "winning" in arms else min(arms, key=arm_order, default=None)


def limits(rows: Sequence[SummaryRow]) -> list[str]:
    """What the table does not show, in sentences."""
    told = []
    fewest = min((row.accuracy.n for row in rows), default=0)
    if fewest == 1:
        told.append("Some arms have a single seed: of these nothing can be told from chance.")
    elif fewest < FEW:
        told.append(
            f"With {fewest} seeds intervals are wide: a difference that is not shown is not equality, and small "
            "differences cannot be found."
        )
    models, targets = ({getattr(row.group, axis) for row in rows} for axis in ("model", "target"))
    told.append(
        f"Seeds are the only thing that was drawn again: the intervals say nothing about other networks than "
        f"{_listed(models)}, other data than {_listed(targets)}, or other recipes."
    )
    told.append(
        "All arms are judged on the same test images, after the last step: an interval covers training anew, not "
        "another test set."
    )
    if any(row.diverged for row in rows):
        told.append(
            "Trainings that diverged count as guessing: they lower the mean of their arm and widen its interval."
        )
    return told


def _finding(section: Section, rows: Sequence[SummaryRow]) -> Finding:
    arm = main_arm(rows)
    return Finding(section, _answers(arm or "", [row for row in rows if row.group.arm == arm]), _order(rows))


def _answers(arm: str, rows: Sequence[SummaryRow]) -> list[Answer]:
    # The last baseline is the control of the same size: what a ticket must beat first.
    baselines = reversed(list(rows[0].versus)) if rows else ()
    return [_answer(arm, baseline, rows) for baseline in baselines if any(row.versus[baseline] for row in rows)]


def _answer(arm: str, baseline: Baseline, rows: Sequence[SummaryRow]) -> Answer:
    found = [(row, comparison) for row in rows if (comparison := row.versus[baseline]) is not None]
    better = [comparison for _, comparison in found if comparison.significant() and comparison.difference.mean > 0]
    worse = [comparison for _, comparison in found if comparison.significant() and comparison.difference.mean < 0]
    verdict = _verdict(arm, baseline.label, len(better), len(worse), _places([row for row, _ in found]))
    return Answer(verdict, _at_the_lowest(found))


def _verdict(arm: str, other: str, better: int, worse: int, places: tuple[int, str]) -> str:
    count, many = places
    if not (better or worse):
        where = "" if count == 1 else f" at any of {count} {many}"
        return f"whether {arm} is better than {other} is not decided{where}"
    parts = [
        f"{word} than {other}{_share(number, count, many)}"
        for word, number in (("better", better), ("worse", worse))
        if number
    ]
    rest = count - better - worse
    undecided = {0: "", 1: "; the other one is not decided"}.get(rest, f"; the other {rest} are not decided")
    return f"{arm} is {' and '.join(parts)}{undecided}"


def _share(number: int, count: int, many: str) -> str:
    if count == 1:
        return ""
    return f" at all {count} {many}" if number == count else f" at {number} of {count} {many}"


def _places(rows: Sequence[SummaryRow]) -> tuple[int, str]:
    """How many places there are, and what several of them are called."""
    axes: dict[str, set[Any]] = {
        "target": {row.group.section for row in rows},
        "source": {(row.group.source, row.group.source_recipe) for row in rows},
        "density": {row.group.density_asked for row in rows},
        "rescaling": {row.group.rescale for row in rows},
    }
    differ = [name for name, values in axes.items() if len(values) > 1]
    if len(differ) > 1:
        return len(rows), f"places ({' × '.join(differ)})"
    return len(rows), {"density": "densities"}.get(name := (differ or ["density"])[0], f"{name}s")


def _at_the_lowest(found: Sequence[tuple[SummaryRow, Comparison]]) -> str:
    """The difference at the lowest density, or the range of those of several sources."""
    lowest = min(row.group.density_asked or 1.0 for row, _ in found)
    kept = [(row, comparison) for row, comparison in found if (row.group.density_asked or 1.0) == lowest]
    where = f"At {density(kept[0][0].density)} % of the weights"
    counts = sorted({comparison.difference.n for _, comparison in kept})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    if len(kept) == 1:
        shown = "shown" if kept[0][1].significant() else "not decided"
        return f"{where}: {difference(kept[0][1].difference)} points ({n}, {shown})."
    ordered = sorted((comparison for _, comparison in kept), key=lambda comparison: comparison.difference.mean)
    least, most = (difference(comparison.difference) for comparison in (ordered[0], ordered[-1]))
    return f"{where}: from {least} to {most} points over {len(kept)} places ({n})."


def _order(rows: Sequence[SummaryRow]) -> str:
    """The arms at the lowest density by their mean accuracy, and the dense network."""
    sparse = [row for row in rows if row.group.density_asked not in (None, 1)]
    if not sparse:
        return ""
    lowest = min(row.group.density_asked or 1.0 for row in sparse)
    kept = sorted((row for row in sparse if row.group.density_asked == lowest), key=lambda row: -row.accuracy.mean)
    several = len({(row.group.source, row.group.source_recipe) for row in kept if row.group.arm != "own"}) > 1
    rescaled = len({row.group.rescale for row in kept}) > 1
    first, last = kept[0], kept[-1]
    told = f"At {density(kept[0].density)} % the highest mean is {_named(first, several, rescaled)}, "
    told += f"{percent(first.accuracy.mean)} % {interval(first.accuracy.interval)}"
    if len(kept) > 1:
        told += f", the lowest {_named(last, several, rescaled)}, {percent(last.accuracy.mean)} %"
    dense = next((row for row in rows if row.group.arm == "dense"), None)
    return told + (f"; dense networks have {percent(dense.accuracy.mean)} %." if dense else ".")


def _named(row: SummaryRow, several: bool, rescaled: bool) -> str:
    name = f"that of {row.group.arm}"
    if several and row.group.source and row.group.arm != "own":
        name += f" from {at(row.group.source, row.group.source_recipe)}"
    return name + (f", rescale {row.group.rescale}" if rescaled else "")


def _listed(names: set[str]) -> str:
    words = sorted(names)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "these"
