"""Accuracy at one density: a line of the figure for each arm, named where it stands."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.style
from matplotlib.figure import Figure

from oneticket.report.figures import FAINT, PAPER, STYLE, least_extent
from oneticket.report.groups import at
from oneticket.report.palette import arm_colour, rescale_fill
from oneticket.report.tables import SummaryRow

LINE = 0.21
"""Height of one line, in inches."""


def has_one_density(rows: Sequence[SummaryRow]) -> bool:
    """Whether the sparse networks of a section all have the density that was asked for in common: no curve then."""
    return len({row.group.density_asked for row in rows if row.group.density_asked != 1}) == 1


def draw_dots(rows: Sequence[SummaryRow]) -> Figure:
    """The figure of one target at one density.

    x is the test accuracy in percent; points are means, bars and the band of the dense network one sample standard
    deviation to each side. Lines stand in the order of the table; what two of them share is not said again.
    """
    with matplotlib.style.context(["default", STYLE]):
        return _figure(rows)


def _figure(rows: Sequence[SummaryRow]) -> Figure:
    shown = [row for row in rows if row.group.arm != "dense"]
    names = labels(shown)
    figure = Figure(figsize=(4.8 + 0.075 * max(map(len, names)), 0.9 + LINE * len(shown)), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        if row.group.arm == "dense":
            mean, deviation = 100 * row.accuracy.mean, 100 * (row.accuracy.deviation or 0.0)
            axis.axvspan(mean - deviation, mean + deviation, color=arm_colour("dense"), alpha=0.22, linewidth=0)
            axis.axvline(mean, color=arm_colour("dense"), linewidth=1.1)
    for place, row in enumerate(shown):
        bar = axis.errorbar(
            100 * row.accuracy.mean, place, xerr=100 * (row.accuracy.deviation or 0.0),
            color=arm_colour(row.group.arm), marker="*" if row.group.arm == "own" else "o",
            fillstyle=rescale_fill(row.group.rescale), markerfacecoloralt=PAPER,
            markersize=8 if row.group.arm == "own" else 5, elinewidth=1.1,
        )  # fmt: skip
        for line in bar.lines[2]:
            line.set_alpha(0.65)
    axis.set_yticks(range(len(shown)), names)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=FAINT)
    axis.set_xlabel("test accuracy (%)")
    axis.set_xlim(*least_extent(*axis.get_xlim()))
    return figure


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
