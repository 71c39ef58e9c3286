"""Sentences: one comparison, and how it ended, in words."""

from __future__ import annotations

from collections.abc import Sequence

from oneticket.report.comparisons import ComparisonRow, probability
from oneticket.report.formatting import density, interval, percent
from oneticket.report.palette import arm_order
from oneticket.statistics import MARGIN, Interval


def sentence(row: ComparisonRow, margin: float = MARGIN) -> str:
    """What a comparison says, with the numbers that it rests on.

    ``At 5 % of the weights winning beats random by 2.10 points [1.30, 2.90], p (Holm) = 0.002 (n = 6 pairs).``

    Parameters
    ----------
    row : ComparisonRow
        The comparison.
    margin : float, default 0.002
        That of the comparison: differences up to it count as none.
    """
    arm, other, points = row.group.arm, row.baseline.label, percent(abs(row.estimate))
    where = f"At {density(row.density)} % of the weights"
    if row.verdict in ("better", "worse"):
        bounds = interval(_turned(row)) if row.low is not None else ""
        beats = "beats" if row.verdict == "better" else "loses to"
        return f"{where} {arm} {beats} {other} by {points} points {bounds}, {_how_sure(row, row.p_adjusted)}."
    if row.verdict == "equivalent":
        sure = _how_sure(row, row.p_equivalent_adjusted)
        return f"{where} {arm} and {other} are equivalent, within ±{percent(margin)} points, {sure}."
    told = f"{where} it is not decided whether {arm} is better than {other}: "
    if row.low is None or row.high is None:
        return f"{told}one pair of networks, {percent(row.estimate)} points apart, says nothing of chance."
    needed = "" if row.seeds_needed is None else f"; about {row.seeds_needed:,} seeds would show so much"
    found = f"{percent(row.estimate)} points {interval(Interval(row.low, row.high))}"
    return f"{told}{found}, {_how_sure(row, row.p_adjusted)}{needed}."


def verdict(rows: Sequence[ComparisonRow], margin: float = MARGIN) -> str:
    """A sentence for each density, of the main arm against the last baseline: the control of the same size.

    The main arm is ``winning``, or without it the first that is compared.
    """
    if not rows:
        return "Nothing is compared."
    last = rows[-1].baseline
    kept = [row for row in rows if row.baseline == last]
    arms = {row.group.arm for row in kept if row.group.arm != "dense"} or {row.group.arm for row in kept}
    main = "winning" if "winning" in arms else min(arms, key=arm_order)
    return "\n".join(sentence(row, margin) for row in kept if row.group.arm == main)


def _turned(row: ComparisonRow) -> Interval:
    """The interval of the size of the difference, whichever way it goes."""
    assert row.low is not None
    assert row.high is not None
    return Interval(row.low, row.high) if row.estimate > 0 else Interval(-row.high, -row.low)


def _how_sure(row: ComparisonRow, p: float | None) -> str:
    shown = probability(p)
    return f"p (Holm) {shown if shown.startswith('<') else f'= {shown}'} (n = {row.n} pairs)"
