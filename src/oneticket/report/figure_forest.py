"""The forest plot: differences with their 95 % intervals, grouped by what they are differences to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oneticket.report import anchors
from oneticket.report.baselines import Baseline
from oneticket.report.drawing import FAINT, INK, PAPER, SOFT, WIDTHS, Columns, Extent, arrow, extent, link, styled
from oneticket.report.figure_by_arm import shortened
from oneticket.report.formatting import density
from oneticket.report.formatting import difference as as_text
from oneticket.report.groups import Section, at
from oneticket.report.palette import arm_colour, arm_marker, arm_order, rescale_fill
from oneticket.report.tables import Comparison, SummaryRow

LINE, HEADING = 0.2, 0.27
"""Heights in inches."""
MOST_LINES = 32


@dataclass(frozen=True)
class Question:
    """The networks of one target that are compared with one baseline."""

    section: Section
    baseline: Baseline
    rows: Sequence[SummaryRow]

    def found(self, row: SummaryRow) -> Comparison:
        """The comparison of one of its rows."""
        comparison = row.versus[self.baseline]
        assert comparison is not None  # rows without one are not in ``rows``
        return comparison


def questions(rows: Iterable[SummaryRow], arms: Sequence[str] = (), most: int = MOST_LINES) -> list[Question]:
    """The comparisons of the rows, grouped by baseline and then by target.

    Where there are more than ``most``, those of the lowest density of each target; the caller says so.

    Parameters
    ----------
    rows : Iterable[SummaryRow]
        The summary of any number of targets.
    arms : Sequence[str], optional
        Only these arms; all by default.
    most : int, default 32
        Lines of the figure.
    """
    known = [row for row in rows if not arms or row.group.arm in arms]
    whole = _grouped(known)
    if sum(len(question.rows) for question in whole) <= most:
        return whole
    lowest: dict[Section, float] = {}
    for row in known:
        asked = row.group.density_asked
        if asked is not None:
            lowest[row.group.section] = min(asked, lowest.get(row.group.section, 1.0))
    return _grouped([row for row in known if row.group.density_asked == lowest.get(row.group.section)])


def draw_forest(asked: Sequence[Question], columns: Columns = 2) -> Figure:
    """The figure of these differences, in points of test accuracy.

    Bars are 95 % intervals, each for one comparison; a star marks a difference that
    :data:`oneticket.report.reading.STAR` calls significant.
    Differences far outside the others are arrows with their values. ``columns`` is the width, in columns of a page of
    two; the wider figure says each difference in numbers too.
    """
    with styled():
        return _figure(asked, columns)


def _grouped(rows: Sequence[SummaryRow]) -> list[Question]:
    found: dict[tuple[Baseline, Section], list[SummaryRow]] = defaultdict(list)
    for row in rows:
        for baseline, comparison in row.versus.items():
            if comparison is not None:
                found[baseline, row.group.section].append(row)
    # The last baseline is the control of the same size: what a ticket must beat first.
    order = list(dict.fromkeys(baseline for row in rows for baseline in row.versus))
    ordered = sorted(found.items(), key=lambda item: -order.index(item[0][0]))
    return [Question(section, baseline, sorted(kept, key=_place)) for (baseline, section), kept in ordered]


def _place(row: SummaryRow) -> tuple[Any, ...]:
    group = row.group
    return (arm_order(group.arm), group.source, group.source_recipe, group.rescale != "none", group.rescale)


def _figure(asked: Sequence[Question], columns: Columns) -> Figure:
    several = len({question.section for question in asked}) > 1
    lines = sum(len(question.rows) for question in asked)
    height = 0.65 + LINE * lines + HEADING * len(asked)
    figure = Figure(figsize=(WIDTHS[columns], height), layout="constrained")
    axis = figure.subplots()
    shown = _extent(asked)
    axis.axvline(0, color=INK, linewidth=0.8)
    ticks: dict[float, str] = {}
    place = 0.0
    for question in asked:
        axis.text(
            0, place, _heading(question, several), transform=axis.get_yaxis_transform(),
            verticalalignment="center", horizontalalignment="left", fontsize=8.5, color=SOFT,
        )  # fmt: skip
        place += 1.0
        for row, name in zip(question.rows, _labels(question.rows, columns), strict=True):
            _draw(axis, place, row, question.found(row), shown, columns)
            ticks[place] = name
            place += 1.0
        place += 0.25
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(place - 0.5, -0.7)
    axis.set_xlim(*shown)
    axis.grid(axis="x", color=FAINT)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("difference (points)" if columns == 1 else "difference in test accuracy (points)")
    return figure


def _extent(asked: Sequence[Question]) -> Extent:
    found = [question.found(row).difference for question in asked for row in question.rows]
    intervals = [
        (100 * d.interval.low, 100 * d.interval.high) if d.interval else (100 * d.mean, 100 * d.mean) for d in found
    ]
    shown = extent([100 * difference.mean for difference in found], intervals)
    return Extent(min(shown.low, -0.08 * (shown.high - shown.low)), max(shown.high, 0.08 * (shown.high - shown.low)))


def _heading(question: Question, several: bool) -> str:
    heading = f"against {question.baseline.label}"
    section = question.section
    return f"{heading}, on {at(section.target, section.target_recipe)}" if several else heading


def _draw(axis: Axes, place: float, row: SummaryRow, found: Comparison, shown: Extent, columns: Columns) -> None:
    mean, interval = 100 * found.difference.mean, found.difference.interval
    colour, marker = arm_colour(row.group.arm), arm_marker(row.group.arm)
    if interval is not None:
        (bar,) = axis.plot([100 * interval.low, 100 * interval.high], [place, place], color=colour, linewidth=1.3)
        bar.set_gid(f"{anchors.of_line(row.group)}_0")
    (point,) = axis.plot(
        [mean], [place], color=colour, marker=marker, markersize=8 if marker == "*" else 5, linestyle="none",
        fillstyle=rescale_fill(row.group.rescale), markerfacecoloralt=PAPER,
    )  # fmt: skip
    point.set_gid(f"{anchors.of_line(row.group)}_1")
    if side := shown.side(mean):
        end, toward = (shown.high, "right") if side > 0 else (shown.low, "left")
        arrow(axis, end, place, mean, toward, colour, told=columns == 1)
    link(axis, [shown.inside(mean)], [place], [anchors.of_row(row.group)])
    star = "* " if found.significant() else ""
    words = star + as_text(found.difference) if columns == 2 else star.strip()
    if words:
        axis.text(
            1.02, place, words, transform=axis.get_yaxis_transform(), fontsize=8 if columns == 2 else 9,
            verticalalignment="center", clip_on=False,
        )  # fmt: skip


def _labels(rows: Sequence[SummaryRow], columns: Columns) -> list[str]:
    """The arm of each row with source, rescaling and density, where the rows of that arm differ in them."""

    def label(row: SummaryRow) -> str:
        words = _words(row)
        alike = [_words(other) for other in rows if other.group.arm == row.group.arm]
        told = [word for axis, word in words.items() if word and len({other[axis] for other in alike}) > 1]
        name = ", ".join([row.group.arm, *told])
        return shortened(name) if columns == 1 else name

    return [label(row) for row in rows]


def _words(row: SummaryRow) -> Mapping[str, str]:
    group = row.group
    return {
        "source": f"from {at(group.source, group.source_recipe)}" if group.source else "",
        "rescale": f"rescale {group.rescale}",
        "density": f"{density(row.density)} %",
    }
