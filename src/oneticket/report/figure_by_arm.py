"""The figure of accuracy at one density: a line for each arm, with its name beside it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oneticket.report import anchors
from oneticket.report.drawing import FAINT, LETTER, PAPER, WIDTHS, Columns, Extent, arrow, link, styled
from oneticket.report.figures import accuracy_extent, bars_of, bounds_of
from oneticket.report.groups import at
from oneticket.report.palette import arm_colour, arm_marker, rescale_fill
from oneticket.report.tables import SummaryRow

LINE = 0.21
"""Height of one line, in inches."""


def has_one_density(rows: Sequence[SummaryRow]) -> bool:
    """Whether one density was asked for of all sparse networks of a section: too few points for a curve."""
    return len({row.group.density_asked for row in rows if row.group.density_asked != 1}) == 1


def draw_by_arm(rows: Sequence[SummaryRow], columns: Columns = 2) -> Figure:
    """The figure of one target at one density.

    x is the test accuracy in percent; points are means, bars and the band of the dense network their 95 % intervals. A
    point far outside the others is an arrow with its value. Lines stand in the order of the table; a label names source
    and rescaling only where the lines of an arm differ in them. ``columns`` is the width, in columns of a page of two.
    """
    with styled():
        return _figure(rows, columns)


def _figure(rows: Sequence[SummaryRow], columns: Columns) -> Figure:
    shown = [row for row in rows if row.group.arm != "dense"]
    names = labels(shown)
    if columns == 1:
        names = [shortened(name) for name in names]
    tall = sum(1 + name.count("\n") for name in names)
    figure = Figure(figsize=(WIDTHS[columns], 0.9 + LINE * tall), layout="constrained")
    axis = figure.subplots()
    limits = accuracy_extent([row.accuracy for row in rows])
    _draw_dense(axis, [row for row in rows if row.group.arm == "dense"])
    for place, row in enumerate(shown):
        _draw_arm(axis, place, row, limits)
    axis.set_yticks(range(len(shown)), names)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=FAINT)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("test accuracy (%)")
    axis.set_xlim(*limits)
    return figure


def _draw_dense(axis: Axes, dense: Sequence[SummaryRow]) -> None:
    for row in dense:
        axis.axvspan(*bounds_of(row.accuracy), color=arm_colour("dense"), alpha=0.22, linewidth=0)
        axis.axvline(100 * row.accuracy.mean, color=arm_colour("dense"), linewidth=1.1)


def _draw_arm(axis: Axes, place: int, row: SummaryRow, limits: Extent) -> None:
    mean, marker, colour = 100 * row.accuracy.mean, arm_marker(row.group.arm), arm_colour(row.group.arm)
    bar = axis.errorbar(
        mean, place, xerr=bars_of([row.accuracy], limits),
        color=colour, marker=marker, markersize=8 if marker == "*" else 5,
        fillstyle=rescale_fill(row.group.rescale), markerfacecoloralt=PAPER, elinewidth=1.1,
    )  # fmt: skip
    for line in bar.lines[2]:
        line.set_alpha(0.65)
    for part, artist in enumerate((bar.lines[0], *bar.lines[2])):
        artist.set_gid(f"{anchors.of_line(row.group)}_{part}")
    if side := limits.side(mean):
        arrow(axis, limits.high if side > 0 else limits.low, place, mean, "right" if side > 0 else "left", colour)
    link(axis, [limits.inside(mean)], [place], [anchors.of_row(row.group)])


def shortened(name: str, most: float = 0.48 * WIDTHS[1] / LETTER) -> str:
    """A label broken at its commas, so that it leaves room for the axis of a narrow figure."""
    lines = [""]
    for word in name.split(", "):
        joined = f"{lines[-1]}, {word}" if lines[-1] else word
        lines[-1:] = [joined] if len(joined) <= most or not lines[-1] else [f"{lines[-1]},", word]
    return "\n".join(lines)


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
