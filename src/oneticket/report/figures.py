"""The figure of accuracy against density of one target: a line for each arm, source and rescaling."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from oneticket.report import anchors
from oneticket.report.drawing import INK, LETTER, PAPER, WIDTHS, Columns, Extent, arrow, extent, link, styled
from oneticket.report.formatting import density
from oneticket.report.groups import Group, at
from oneticket.report.palette import SOLID, Dash, arm_colour, arm_marker, arm_order, rescale_fill
from oneticket.report.published import Published, draw_published
from oneticket.report.tables import SummaryRow
from oneticket.statistics import Sample

MOST_LINES = 8
MOST_TICKS = 7
_PLAIN: dict[str, Any] = {"color": INK, "linewidth": 1.2, "markersize": 5, "markerfacecoloralt": PAPER}


class Line(NamedTuple):
    """What distinguishes one line of a figure from another."""

    arm: str
    source: str
    rescale: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title and its lines, each from the densest point to the sparsest."""

    title: str
    lines: Mapping[Line, Sequence[SummaryRow]]


def draw(
    rows: Sequence[SummaryRow], dashes: Mapping[str, Dash], columns: Columns = 2, published: Published | None = None
) -> Figure:
    """The figure of one target.

    x is the density in percent on a log axis, falling to the right; y the test accuracy in percent; points are means,
    bars and the band of the dense network their 95 % intervals. A point far outside the others is an arrow with its
    value.

    Parameters
    ----------
    rows : Sequence[SummaryRow]
        The summary of one section.
    dashes : Mapping[str, Dash]
        The line style of each source, ``name@recipe``.
    columns : {1, 2}
        The width, in columns of a page of two.
    published : Published, optional
        Curves of others, drawn in grey behind the lines.
    """
    with styled():
        dense = [row for row in rows if row.group.arm == "dense"]
        figure = _figure(panels(rows), dense, dashes, columns, published or {})
        for axis in figure.axes:
            draw_published(axis, published or {})
        return figure


def panels(rows: Iterable[SummaryRow]) -> list[Panel]:
    """The lines of one target in one panel; more than eight in a panel for each source, then for each rescaling.

    The target's own ticket is a reference like the dense network, so each source's panel shows it.
    """
    lines: dict[Line, list[SummaryRow]] = defaultdict(list)
    for row in rows:
        if row.group.arm != "dense" and row.density:
            lines[_line(row.group)].append(row)
    ordered = {line: _falling(lines[line]) for line in sorted(lines, key=_line_order)}
    whole = Panel("", ordered)
    if len(ordered) <= MOST_LINES:
        return [whole]
    by_source = _split(whole, "source", "from {}")
    if max(len(panel.lines) for panel in by_source) <= MOST_LINES:
        return by_source
    return [part for panel in by_source for part in _split(panel, "rescale", "rescale {}")]


def _line(group: Group) -> Line:
    return Line(group.arm, "" if group.arm == "own" else at(group.source, group.source_recipe), group.rescale)


def _line_order(line: Line) -> tuple[Any, ...]:
    return (arm_order(line.arm), line.source, _none_first(line.rescale))


def _falling(points: Iterable[SummaryRow]) -> list[SummaryRow]:
    return sorted(points, key=lambda row: -(row.density or 0.0))


def _split(panel: Panel, axis: str, title: str) -> list[Panel]:
    """One panel for each value of ``axis``; lines without one go into all."""
    values = sorted({getattr(line, axis) for line in panel.lines} - {""}, key=_none_first)
    return [
        Panel(
            ", ".join(filter(None, (panel.title, title.format(value)))),
            {line: points for line, points in panel.lines.items() if getattr(line, axis) in (value, "")},
        )
        for value in values
    ] or [panel]


def _none_first(name: str) -> tuple[bool, str]:
    return (name != "none", name)


def _figure(
    parts: Sequence[Panel], dense: Sequence[SummaryRow], dashes: Mapping[str, Dash], columns: Columns,
    published: Published,
) -> Figure:  # fmt: skip
    across = min(columns, len(parts))
    down = ceil(len(parts) / across)
    handles = _legend(parts, dense, dashes)
    beside = columns == 2 and len(parts) == 1 and _legend_width(handles) < 0.36 * WIDTHS[2]
    fitting = max(1, min(len(handles), int(WIDTHS[columns] / _legend_width(handles))))
    below = 0.0 if beside else 0.25 + 0.19 * ceil(len(handles) / fitting)
    height = (3.6 if columns == 2 else 2.7) if len(parts) == 1 else 2.5
    figure = Figure(figsize=(WIDTHS[columns], height * down + below), layout="constrained")
    axes = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for spare in axes[len(parts) :]:
        spare.set_visible(False)
    scale = _Scale.of(parts)
    shown = _extent(parts, dense, [y for points in published.values() for x, y, _ in points if scale.reaches(x)])
    # First, and with limits: matplotlib cannot choose a range for a single density.
    _set_scale(axes[0], scale)
    axes[0].set_ylim(*shown)
    for place, (axis, panel) in enumerate(zip(axes, parts, strict=False)):
        axis.set_title(panel.title, loc="left")
        _draw_dense(axis, dense)
        _draw_lines(axis, panel, dashes, scale, shown)
        # The lowest of a column, which need not be in the last row.
        lowest = place + across >= len(parts)
        axis.tick_params(labelbottom=lowest)
        axis.set_xlabel("weights remaining (%)" if lowest else "")
        axis.set_ylabel("test accuracy (%)" if place % across == 0 else "")
    if beside:
        figure.legend(handles=handles, loc="outside right upper", handlelength=2.6)
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=fitting, handlelength=2.6)
    return figure


def _extent(parts: Sequence[Panel], dense: Sequence[SummaryRow], published: Sequence[float]) -> Extent:
    samples = [row.accuracy for panel in parts for points in panel.lines.values() for row in points]
    return accuracy_extent([*samples, *(row.accuracy for row in dense), *map(_alone, published)])


def _alone(percent: float) -> Sample:
    """A published accuracy as a sample of its own."""
    return Sample(1, percent / 100, None, None)


def accuracy_extent(samples: Iterable[Sample]) -> Extent:
    """The extent of an axis of accuracies in percent, with their 95 % intervals."""
    known = list(samples)
    return extent([100 * sample.mean for sample in known], [bounds_of(sample) for sample in known], most=100.0)


def bounds_of(sample: Sample) -> tuple[float, float]:
    """The ends of the 95 % interval of an accuracy in percent; the mean itself for one seed."""
    if sample.interval is None:
        return 100 * sample.mean, 100 * sample.mean
    return 100 * sample.interval.low, 100 * sample.interval.high


def bars_of(samples: Sequence[Sample], shown: Extent) -> list[list[float]]:
    """How far the 95 % intervals of accuracies reach below and above their means, in points.

    A point outside the axis has no bar: it would look like one of a point inside.
    """
    means = [100 * sample.mean for sample in samples]
    ends = [
        (mean, mean) if shown.side(mean) else bounds_of(sample) for mean, sample in zip(means, samples, strict=True)
    ]
    return [
        [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
        [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
    ]


@dataclass(frozen=True)
class _Scale:
    """The x axis: the densities in percent, falling, and the mean step between them in decades."""

    percents: tuple[float, ...]
    step: float

    @classmethod
    def of(cls, parts: Sequence[Panel]) -> _Scale:
        rows = [row for panel in parts for points in panel.lines.values() for row in points]
        percents = tuple(sorted({float(density(row.density)) for row in rows}, reverse=True)) or (100.0,)
        several = len(percents) > 1
        return cls(percents, log10(percents[0] / percents[-1]) / (len(percents) - 1) if several else 1.0)

    def reaches(self, percent: float) -> bool:
        """Whether a density in percent lies between those of the lines."""
        return self.percents[-1] <= percent <= self.percents[0]

    def ticks(self) -> list[float]:
        """The densities themselves when there is room to label them, else the round numbers between."""
        if len(self.percents) <= MOST_TICKS:
            return list(self.percents)
        decades = range(ceil(log10(self.percents[0])) + 1, floor(log10(self.percents[-1])) - 1, -1)
        for digits in ((5, 2, 1), (3, 1), (1,)):
            ticks = [digit * 10.0**decade for decade in decades for digit in digits]
            ticks = [tick for tick in ticks if self.percents[-1] <= tick <= self.percents[0]]
            if len(ticks) <= MOST_TICKS + 1:
                break
        return ticks


def _draw_dense(axis: Axes, dense: Sequence[SummaryRow]) -> None:
    for row in dense:
        axis.axhspan(*bounds_of(row.accuracy), color=arm_colour("dense"), alpha=0.22, linewidth=0)
        axis.axhline(100 * row.accuracy.mean, color=arm_colour("dense"), linewidth=1.1)


def _draw_lines(axis: Axes, panel: Panel, dashes: Mapping[str, Dash], scale: _Scale, shown: Extent) -> None:
    middle = (len(panel.lines) - 1) / 2
    arrows: Counter[tuple[float | None, int]] = Counter()
    for place, (line, points) in enumerate(panel.lines.items()):
        # One percent of the step from line to line keeps the bars apart.
        shift = 10 ** (0.01 * scale.step * (middle - place))
        xs = [100 * (row.density or 0.0) * shift for row in points]
        ys = [100 * row.accuracy.mean for row in points]
        bars = axis.errorbar(
            xs,
            ys,
            yerr=bars_of([row.accuracy for row in points], shown),
            elinewidth=0.9,
            capsize=0,
            **_look(line, dashes, 5 if len(points) <= 12 else 3.2),
        )
        for bar in bars.lines[2]:
            bar.set_alpha(0.65)
        for part, artist in enumerate((bars.lines[0], *bars.lines[2])):
            artist.set_gid(f"{anchors.of_line(points[0].group)}_{part}")
        for x, row in zip(xs, points, strict=True):
            _draw_outside(axis, x, row, shown, arrows)
        link(axis, xs, [shown.inside(y) for y in ys], [anchors.of_row(row.group) for row in points])


def _draw_outside(
    axis: Axes, x: float, row: SummaryRow, shown: Extent, arrows: Counter[tuple[float | None, int]]
) -> None:
    """The arrow of a point outside the axis, its number above those that already stand at this density."""
    value = 100 * row.accuracy.mean
    if side := shown.side(value):
        there = (row.group.density_asked, side)
        end, toward = (shown.high, "up") if side > 0 else (shown.low, "down")
        arrow(axis, x, end, value, toward, arm_colour(row.group.arm), stacked=arrows[there])
        arrows[there] += 1


def _look(line: Line, dashes: Mapping[str, Dash], size: float) -> dict[str, Any]:
    marker = arm_marker(line.arm)
    return {
        "color": arm_colour(line.arm),
        "linestyle": dashes.get(line.source, SOLID),
        "marker": marker,
        "fillstyle": rescale_fill(line.rescale),
        "markerfacecoloralt": PAPER,
        "markersize": 1.6 * size if marker == "*" else size,
        "markeredgewidth": 1.0,
        "linewidth": 1.4,
    }


def _set_scale(axis: Axes, scale: _Scale) -> None:
    axis.set_xscale("log")
    margin = 10 ** max(0.06 * log10(scale.percents[0] / scale.percents[-1]), 0.25 * scale.step / len(scale.percents))
    axis.set_xlim(scale.percents[0] * margin, scale.percents[-1] / margin)
    axis.xaxis.set_minor_locator(NullLocator())
    ticks = scale.ticks()
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def arm_handle(arm: str) -> Line2D:
    """The entry of an arm in a legend."""
    marker = arm_marker(arm)
    size = 8 if marker == "*" else 5
    return Line2D([], [], color=arm_colour(arm), linewidth=1.8, marker=marker, markersize=size, label=arm)


def source_handle(source: str, dash: Dash) -> Line2D:
    """The entry of a source in a legend."""
    look: dict[str, Any] = {"linestyle": dash, **_PLAIN}
    return Line2D([], [], label=f"from {source}", **look)


def rescale_handle(rescale: str) -> Line2D:
    """The entry of a rescaling in a legend."""
    fill = rescale_fill(rescale)
    return Line2D([], [], label=f"rescale {rescale}", linestyle="none", marker="o", fillstyle=fill, **_PLAIN)


def _legend(parts: Sequence[Panel], dense: Sequence[SummaryRow], dashes: Mapping[str, Dash]) -> list[Line2D]:
    """Colours, line styles and fills explained separately: that takes fewer entries than every combination.

    What the titles of the panels already say is left out.
    """
    lines = [line for panel in parts for line in panel.lines]
    handles = [Line2D([], [], color=arm_colour("dense"), linewidth=1.4, label="dense")] if dense else []
    handles += [arm_handle(arm) for arm in sorted({line.arm for line in lines}, key=arm_order)]
    if len(parts) == 1:
        handles += [source_handle(name, dashes[name]) for name in sorted({line.source for line in lines} - {""})]
    if any(len({line.rescale for line in panel.lines}) > 1 for panel in parts):
        handles += [rescale_handle(name) for name in sorted({line.rescale for line in lines}, key=_none_first)]
    return handles


def _legend_width(handles: Sequence[Line2D]) -> float:
    """The approximate width of one column of the legend, in inches."""
    return 0.65 + LETTER * max((len(str(handle.get_label())) for handle in handles), default=0)
