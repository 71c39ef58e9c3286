"""Accuracy against all compute that a network took, its search included, with the Pareto front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from oneticket.report import anchors
from oneticket.report.drawing import PAPER, SOFT, WIDTHS, Columns, Extent, arrow, link, styled
from oneticket.report.figures import accuracy_extent, arm_handle, bars_of
from oneticket.report.formatting import quantity
from oneticket.report.groups import Group
from oneticket.report.palette import arm_colour, arm_marker, arm_order, rescale_fill
from oneticket.report.tables import Row, SummaryRow, group_of


@dataclass(frozen=True)
class Spent:
    """An arm at one density, and the mean of ``total_masked_flops`` over its networks."""

    row: SummaryRow
    flops: float


def totals(table: Iterable[Row]) -> Mapping[Group, float]:
    """The mean of ``total_masked_flops`` of each group whose networks all have it."""
    found: dict[Group, list[float | None]] = defaultdict(list)
    for network in table:
        found[group_of(network)].append(network["total_masked_flops"])
    known = {group: [value for value in values if value] for group, values in found.items()}
    return {group: fmean(values) for group, values in known.items() if values and len(values) == len(found[group])}


def spent(known: Mapping[Group, float], rows: Iterable[SummaryRow]) -> list[Spent]:
    """The rows of the summary whose total is known, in their order."""
    return [Spent(row, known[row.group]) for row in rows if row.group in known]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points (cost, value) that no other point beats, in the order of rising cost.

    A point beats another if it is as cheap and better, or cheaper and as good; of equal points the first is taken.
    """
    front: list[int] = []
    best = float("-inf")
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[place][1] > best:
            front.append(place)
            best = points[place][1]
    return front


def draw_compute(found: Sequence[Spent], columns: Columns = 2) -> Figure:
    """The figure of one target; x is a log axis of mask-aware FLOPs, y the mean test accuracy with its 95 % interval.

    The grey steps are the Pareto front of the means: no arm of this table is both cheaper and better.
    """
    with styled():
        return _figure(found, columns)


def _figure(found: Sequence[Spent], columns: Columns) -> Figure:
    arms = sorted({point.row.group.arm for point in found}, key=arm_order)
    across = 5 if columns == 2 else 3
    height = (3.2 if columns == 2 else 2.7) + 0.2 * -(-len(arms) // across)
    figure = Figure(figsize=(WIDTHS[columns], height), layout="constrained")
    axis = figure.subplots()
    shown = accuracy_extent(point.row.accuracy for point in found)
    axis.set_xscale("log")
    axis.set_ylim(*shown)
    _draw_front(axis, found)
    for point in found:
        _draw(axis, point, shown)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value).replace(" ", "")))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("mask-aware FLOPs, search included")
    axis.set_ylabel("test accuracy (%)")
    figure.legend(handles=[arm_handle(arm) for arm in arms], loc="outside lower center", ncols=min(across, len(arms)))
    return figure


def _draw_front(axis: Axes, found: Sequence[Spent]) -> None:
    points = [(point.flops, 100 * point.row.accuracy.mean) for point in found]
    front = [points[place] for place in pareto_front(points)]
    xs, ys = [x for x, _ in front], [y for _, y in front]
    axis.step(xs, ys, where="post", color=SOFT, linewidth=1.0, linestyle=(0, (3, 2)))


def _draw(axis: Axes, point: Spent, shown: Extent) -> None:
    group, mean = point.row.group, 100 * point.row.accuracy.mean
    colour, marker = arm_colour(group.arm), arm_marker(group.arm)
    bar = axis.errorbar(
        point.flops, mean, yerr=bars_of([point.row.accuracy], shown), color=colour, marker=marker,
        markersize=8 if marker == "*" else 5, fillstyle=rescale_fill(group.rescale), markerfacecoloralt=PAPER,
        elinewidth=0.9,
    )  # fmt: skip
    for line in bar.lines[2]:
        line.set_alpha(0.65)
    for part, artist in enumerate((bar.lines[0], *bar.lines[2])):
        artist.set_gid(f"{anchors.of_line(group)}_{part}")
    if side := shown.side(mean):
        arrow(axis, point.flops, shown.high if side > 0 else shown.low, mean, "up" if side > 0 else "down", colour)
    link(axis, [point.flops], [shown.inside(mean)], [anchors.of_row(group)])
