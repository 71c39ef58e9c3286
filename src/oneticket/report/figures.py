"""The figure of accuracy against density of one target: a line for each arm, source and rescaling."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from oneticket.report.formatting import density
from oneticket.report.groups import Group, at
from oneticket.report.palette import OWN_STYLE, LineStyle, arm_colour, arm_order, rescale_fill
from oneticket.report.tables import SummaryRow

INK, FAINT, PAPER = "#1f2328", "#d8dbe0", "#ffffff"
MOST_LINES = 8
COLUMNS = 3
MOST_TICKS = 7
_PLAIN: dict[str, Any] = {"color": INK, "linewidth": 1.2, "markersize": 5, "markerfacecoloralt": PAPER}

# On top of matplotlib's defaults, so that the user's matplotlibrc changes nothing.
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "oneticket",
    "pdf.fonttype": 42,
}


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


def draw(rows: Sequence[SummaryRow], styles: Mapping[str, LineStyle]) -> Figure:
    """The figure of one target.

    x is the density in percent on a log axis, falling to the right; y the test accuracy in percent; points are means,
    bars and the band of the dense network one sample standard deviation to each side.

    Parameters
    ----------
    rows : Sequence[SummaryRow]
        The summary of one section.
    styles : Mapping[str, LineStyle]
        The line style of each source, ``name@recipe``.
    """
    with matplotlib.style.context(["default", STYLE]):
        return _figure(panels(rows), [row for row in rows if row.group.arm == "dense"], styles)


def render(figure: Figure, kind: str) -> bytes:
    """The figure as ``svg`` or ``pdf``; the same figure always gives the same bytes."""
    metadata: dict[str, Any] = {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }[kind]
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


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


def _figure(parts: Sequence[Panel], dense: Sequence[SummaryRow], styles: Mapping[str, LineStyle]) -> Figure:
    columns = len(parts) if len(parts) <= COLUMNS else 2 if len(parts) == 4 else COLUMNS
    rows = ceil(len(parts) / columns)
    handles = _legend(parts, dense, styles)
    column = _legend_width(handles)
    size = (6.0 + column, 3.7) if len(parts) == 1 else (1.0 + 3.2 * columns, 2.7 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for spare in axes[len(parts) :]:
        spare.set_visible(False)
    scale = _Scale.of(parts)
    # First, and with limits: matplotlib cannot choose a range for a single density.
    _set_scale(axes[0], scale)
    for place, (axis, panel) in enumerate(zip(axes, parts, strict=False)):
        axis.set_title(panel.title, loc="left")
        _draw_dense(axis, dense)
        _draw_lines(axis, panel, styles, scale)
        # The lowest of a column, which need not be in the last row.
        lowest = place + columns >= len(parts)
        axis.tick_params(labelbottom=lowest)
        axis.set_xlabel("weights remaining (%)" if lowest else "")
        axis.set_ylabel("test accuracy (%)" if place % columns == 0 else "")
    _widen(axes[0])
    if len(parts) == 1:
        figure.legend(handles=handles, loc="outside right upper", handlelength=2.6)
    else:
        across = max(1, min(len(handles), int(size[0] / column)))
        figure.legend(handles=handles, loc="outside lower center", ncols=across, handlelength=2.6)
    return figure


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
        mean, deviation = 100 * row.accuracy.mean, 100 * (row.accuracy.deviation or 0.0)
        axis.axhspan(mean - deviation, mean + deviation, color=arm_colour("dense"), alpha=0.22, linewidth=0)
        axis.axhline(mean, color=arm_colour("dense"), linewidth=1.1)


def _draw_lines(axis: Axes, panel: Panel, styles: Mapping[str, LineStyle], scale: _Scale) -> None:
    middle = (len(panel.lines) - 1) / 2
    for place, (line, points) in enumerate(panel.lines.items()):
        # One percent of the step from line to line keeps the bars apart.
        shift = 10 ** (0.01 * scale.step * (middle - place))
        bars = axis.errorbar(
            [100 * (row.density or 0.0) * shift for row in points],
            [100 * row.accuracy.mean for row in points],
            yerr=[100 * (row.accuracy.deviation or 0.0) for row in points],
            elinewidth=0.9,
            capsize=0,
            **_look(line, styles, 5 if len(points) <= 12 else 3.2),
        )
        for bar in bars.lines[2]:
            bar.set_alpha(0.65)


def _look(line: Line, styles: Mapping[str, LineStyle], size: float) -> dict[str, Any]:
    style = styles.get(line.source, LineStyle(*OWN_STYLE))
    return {
        "color": arm_colour(line.arm),
        "linestyle": style.dash,
        "marker": style.marker,
        "fillstyle": rescale_fill(line.rescale),
        "markerfacecoloralt": PAPER,
        "markersize": 1.6 * size if style.marker == "*" else size,
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


def least_extent(low: float, high: float) -> tuple[float, float]:
    """The limits, widened to one point of accuracy: on a shorter axis noise would look like a result."""
    return (low, high) if high - low >= 1 else ((low + high) / 2 - 0.5, (low + high) / 2 + 0.5)


def _widen(axis: Axes) -> None:
    axis.set_ylim(*least_extent(*axis.get_ylim()))


def _arm_handle(arm: str) -> Line2D:
    if arm == "own":
        return Line2D([], [], color=arm_colour(arm), linewidth=1.4, marker=OWN_STYLE[1], markersize=8, label=arm)
    return Line2D([], [], color=arm_colour(arm), linewidth=3, label=arm)


def _source_handle(source: str, style: LineStyle) -> Line2D:
    look: dict[str, Any] = {"linestyle": style.dash, "marker": style.marker}
    return Line2D([], [], label=f"from {source}", **look, **_PLAIN)


def _rescale_handle(rescale: str) -> Line2D:
    fill = rescale_fill(rescale)
    return Line2D([], [], label=f"rescale {rescale}", linestyle="none", marker="o", fillstyle=fill, **_PLAIN)


def _legend(parts: Sequence[Panel], dense: Sequence[SummaryRow], styles: Mapping[str, LineStyle]) -> list[Line2D]:
    """Colours, line styles and fills explained separately: that takes fewer entries than every combination.

    What the titles of the panels already say is left out.
    """
    lines = [line for panel in parts for line in panel.lines]
    handles = [Line2D([], [], color=arm_colour("dense"), linewidth=1.4, label="dense")] if dense else []
    handles += [_arm_handle(arm) for arm in sorted({line.arm for line in lines}, key=arm_order)]
    if len(parts) == 1:
        handles += [_source_handle(name, styles[name]) for name in sorted({line.source for line in lines} - {""})]
    if any(len({line.rescale for line in panel.lines}) > 1 for panel in parts):
        handles += [_rescale_handle(name) for name in sorted({line.rescale for line in lines}, key=_none_first)]
    return handles


def _legend_width(handles: Sequence[Line2D]) -> float:
    """The approximate width of one column of the legend, in inches."""
    return 0.65 + 0.075 * max((len(str(handle.get_label())) for handle in handles), default=0)
