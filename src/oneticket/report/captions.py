"""Captions: what a figure shows, how many seeds it rests on, and what its bars and bands are."""

from __future__ import annotations

from collections.abc import Sequence

from oneticket.report.figure_compute import Spent
from oneticket.report.figure_forest import Question
from oneticket.report.figure_heat_map import HeatMap
from oneticket.report.formatting import density, percent
from oneticket.report.tables import SummaryRow

_CUT = "Arrows with a number are points far outside the others; a bar that reaches the edge goes on."
_STAR = "A star: p ≤ 0.05 after Holm's correction over all comparisons of the target with that baseline."


def accuracy(rows: Sequence[SummaryRow], title: str, *, by_arm: bool, left_out: int = 0) -> str:
    """The caption of accuracy against density or, at one density, of each arm."""
    told = f"Test accuracy on {title} "
    told += "of each arm. " if by_arm else "against the weights remaining: a log axis, sparser to the right. "
    told += _bars(rows, "Points are means, bars their 95 % intervals")
    if not by_arm and _most(rows) > 1:
        told += "; points of one density stand a little apart so that their bars can be seen"
    told += ". "
    dense = next((row for row in rows if row.group.arm == "dense"), None)
    if dense is not None:
        band = ", its band the 95 % interval" if dense.accuracy.interval else ""
        told += f"The grey line is the dense network ({percent(dense.accuracy.mean)} %){band}. "
    if left_out:
        told += f"{left_out} of {len(rows)} rows of the table are not drawn. "
    return told + _CUT


def forest(asked: Sequence[Question], arm: str | None, *, left_out: int = 0) -> str:
    """The caption of a forest plot."""
    rows = [row for question in asked for row in question.rows]
    whose = f"of {arm} " if arm else ""
    counts = [question.found(row).difference.n for question in asked for row in question.rows]
    told = f"Differences {whose}in test accuracy, in points, paired by seed ({n_of(counts)}); right of the line is "
    told += "better. "
    if max(counts) > 1:
        told += f"Bars are 95 % intervals, each for one comparison. {_STAR} "
    densities = {row.group.density_asked for row in rows}
    if len(densities) == 1:
        told += f"At {density(densities.pop())} % of the weights. "
    if left_out:
        told += f"{left_out} more differences at this density are in the tables below. "
    return told + _CUT


def heat_map(shown: HeatMap) -> str:
    """The caption of a heat map."""
    counts = [c.difference.n for row in shown.fields.values() if (c := row.versus[shown.baseline]) is not None]
    told = (
        f"Tickets of each source on each target: {shown.arm} minus {shown.baseline.label} at "
        f"{density(shown.density)} % of the weights, in points of test accuracy ({n_of(counts)}). "
        "Blue is better, orange worse. "
    )
    return told + (f"Brackets hold 95 % intervals. {_STAR}" if max(counts, default=0) > 1 else "")


def compute(found: Sequence[Spent], title: str) -> str:
    """The caption of accuracy against compute."""
    rows = [point.row for point in found]
    return (
        f"Test accuracy on {title} against all compute behind a network, its search included (mask-aware FLOPs, a "
        f"logarithmic axis). {_bars(rows, 'Points are means, bars their 95 % intervals')}. "
        f"On the dashed steps no other mean is both cheaper and better (the Pareto front). "
        f"A search that several networks share counts in full for each. {_CUT}"
    )


def _bars(rows: Sequence[SummaryRow], bars: str) -> str:
    counts = [row.accuracy.n for row in rows]
    return f"{bars} over seeds ({n_of(counts)})" if max(counts, default=0) > 1 else "One seed, so without intervals"


def _most(rows: Sequence[SummaryRow]) -> int:
    return max((row.accuracy.n for row in rows), default=0)


def n_of(counts: Sequence[int]) -> str:
    """The number of seeds, or from the least to the greatest."""
    least, most = min(counts, default=0), max(counts, default=0)
    return f"n = {least}" if least == most else f"n = {least} to {most}"
