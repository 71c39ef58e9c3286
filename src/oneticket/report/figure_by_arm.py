"""The figure of accuracy at one density: a line for each arm, with its name beside it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oneticket.report.figures import FAINT, PAPER, STYLE, least_extent
from oneticket.report.groups import at
from oneticket.report.palette import arm_colour, rescale_fill
from oneticket.report.tables import SummaryRow

LINE = 0.21
"""Height of one line, in inches."""


def has_one_density(rows: Sequence[SummaryRow]) -> bool:
    """Whether one density was asked for of all sparse networks of a section: too few points for a curve."""
    return len({row.group.density_asked for row in rows if row.group.density_asked != 1}) == 1


def draw_by_arm(rows: Sequence[SummaryRow]) -> Figure:
    """The figure of one target at one density.

    x is the test accuracy in percent; points are means, bars and the band of the dense network one sample standard
    deviation to each side. Lines stand in the order of the table; a label names source and rescaling only where the
    lines of an arm differ in them.
    """
    with matplotlib.style.context(["default", STYLE]):
        return _figure(rows)


def _figure(rows: Sequence[SummaryRow]) -> Figure:
    shown = [row for row in rows if row.group.arm != "dense"]
    names = labels(shown)
    figure = Figure(figsize=(4.8 + 0.075 * max(map(len, names)), 0.9 + LINE * len(shown)), layout="constrained")
    axis = figure.subplots()
    _draw_dense(axis, [row for row in rows if row.group.arm == "dense"])
    for place, row in enumerate(shown):
        _draw_arm(axis, place, row)
    axis.set_yticks(range(len(shown)), names)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=FAINT)
    axis.set_xlabel("test accuracy (%)")
    axis.set_xlim(*least_extent(*axis.get_xlim()))
    return figure


def _draw_dense(axis: Axes, dense: Sequence[SummaryRow]) -> None:
    for row in dense:
        mean, deviation = 100 * row.accuracy.mean, 100 * (row.accuracy.deviation or 0.0)
        axis.axvspan(mean - deviation, mean + deviation, color=arm_colour("dense"), alpha=0.22, linewidth=0)
        axis.axvline(mean, color=arm_colour("dense"), linewidth=1.1)


def _draw_arm(axis: Axes, place: int, row: SummaryRow) -> None:
    own = row.group.arm == "own"
    bar = axis.errorbar(
        100 * row.accuracy.mean, place, xerr=100 * (row.accuracy.deviation or 0.0),
        color=arm_colour(row.group.arm), marker="*" if own else "o", markersize=8 if own else 5,
        fillstyle=rescale_fill(row.group.rescale), markerfacecoloralt=PAPER, elinewidth=1.1,
    )  # fmt: skip
    for line in bar.lines[2]:
        line.set_alpha(0.65)


def labels(rows: Sequence[SummaryRow]) -> list[str]:
    """The arm of each row, with its source and its rescaling where the rows of that arm differ in them."""

    def label(row: SummaryRow) -> str:
        alike = [other.group for other in rows if other.group.arm == row.group.arm]
        group, words = row.group, [row.group.arm]
        if len({other.rescale for other in alike}) > 1:
            words.append(f"rescale {group.rescale}")
        if len({(other.source, other.source_recipe) for other in alike}) > 1:
            words.append(f"from {at(group.source, group.source_recipe)}")
        return ", ".join(words)

    return [label(row) for row in rows]
