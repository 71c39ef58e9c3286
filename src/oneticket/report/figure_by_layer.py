"""Figures by layer: what each layer keeps, and how far its weights have moved from W_k."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from oneticket.errors import InputError
from oneticket.report.drawing import WIDTHS, Columns, styled
from oneticket.report.formatting import density as as_percent
from oneticket.report.lines import Drawn, Lines, Look, Row, lines_of, over_seeds, sparsest
from oneticket.statistics import Sample

MOST_NAMES = 6
"""Layers that are named below the axis; more are numbered."""
_APART = 0.06
"""How far the lines stand apart, of the way from layer to layer, so that equal ones can be seen."""
_LEAST = 0.005
"""The lowest density of a layer on the axis, in percent; a layer without a weight stands there as an arrow."""


class _Measure(NamedTuple):
    """What is drawn of each layer: the label of the axis, and its value in a row, None where the row has none."""

    label: str
    value: Callable[[Row], float | None]


_KEPT = _Measure("kept (%)", lambda row: 100 * row["kept"] / row["weights"] if row["weights"] else None)
_FLIPPED = _Measure(
    "signs flipped (%)",
    lambda row: 100 * row["flipped"] / row["kept"] if row["flipped"] is not None and row["kept"] else None,
)
_MOVED = _Measure(
    "moved (% of ‖W_k‖)",
    lambda row: 100 * row["distance"] / row["norm"] if row["distance"] is not None and row["norm"] else None,
)


def draw_layers(rows: Sequence[Row], columns: Columns = 2) -> Drawn:
    """The figure of the densities of the layers, and its caption.

    x are the prunable layers from the input on, y the percentage of its weights that a layer keeps, on a log axis.

    Parameters
    ----------
    rows : Sequence[Row]
        Rows of ``oneticket.lab.results.layers.COLUMNS`` of one target.
    columns : {1, 2}
        The width, in columns of a page of two.
    """
    lines = lines_of(rows, with_dense=False)
    with styled():
        figure, (axis,) = _axes(1, columns)
        _draw(axis, lines, _KEPT, log=True)
        _finish(figure, [axis], lines, columns)
    told = (
        f"The weights that each prunable layer keeps, a log axis, {lines.about()}. {_bars(lines)}"
        " The dotted line is the density of the whole network."
    )
    return Drawn(figure, told)


def draw_movement(rows: Sequence[Row], columns: Columns = 2) -> Drawn:
    """The figure of sign flips and of the distance from W_k by layer, and its caption; parameters as `draw_layers`.

    Raises
    ------
    InputError
        Where no network began at W_k.
    """
    moved = [row for row in sparsest(rows) if row["distance"] is not None]
    if not moved:
        raise InputError(
            "no network of the table began at W_k", expected="an arm with rewound weights that are not rescaled"
        )
    lines = lines_of(moved, with_dense=True)
    with styled():
        figure, axes = _axes(2, columns)
        for axis, measure in zip(axes, (_FLIPPED, _MOVED), strict=True):
            _draw(axis, lines, measure, log=False)
        _finish(figure, axes, lines, columns)
    left = sorted({row["arm"] for row in sparsest(rows)} - {key.arm for key in lines.of})
    told = (
        "Above, kept weights whose sign at the end is not that at W_k; below, the distance of the kept weights from "
        f"W_k, ‖m ∘ (W_T − W_k)‖₂ over ‖m ∘ W_k‖₂; {lines.about()}. {_bars(lines)}"
    )
    told += f" Not drawn, since they did not begin at W_k: {', '.join(left)}." if left else ""
    return Drawn(figure, told)


def _axes(count: int, columns: Columns) -> tuple[Figure, list[Axes]]:
    height = (3.0 if columns == 2 else 2.5) if count == 1 else (4.4 if columns == 2 else 3.8)
    figure = Figure(figsize=(WIDTHS[columns], height), layout="constrained")
    return figure, list(figure.subplots(count, 1, sharex=True, squeeze=False).flat)


def _draw(axis: Axes, lines: Lines, measure: _Measure, *, log: bool) -> None:
    axis.set_ylabel(measure.label)
    if log:
        axis.set_yscale("log")
    middle = (len(lines.of) - 1) / 2
    for number, (key, look) in enumerate(lines.looks().items()):
        known = [{**row, "value": measure.value(row)} for row in lines.of[key]]
        samples = over_seeds(known, "place", "value", bounds=(0.0, 100.0) if log else (0.0, float("inf")))
        _draw_line(axis, samples, look, _APART * (number - middle), log=log)
        if log:
            whole = _whole(lines.of[key])
            axis.axhline(whole, color=look.colour, linewidth=0.8, linestyle=":")
            if lines.one_arm and samples:
                last = max(samples)
                end = last + _APART * (number - middle), max(samples[last].mean, _LEAST)
                axis.annotate(
                    f"{as_percent(whole / 100)} %", end, xytext=(6, 0),
                    textcoords="offset points", fontsize=7.5, color=look.colour, verticalalignment="center",
                )  # fmt: skip
    if log:
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(bottom=0)  # only now, or matplotlib would stop looking for the upper end


def _draw_line(axis: Axes, samples: Mapping[Any, Sample], look: Look, shift: float, *, log: bool) -> None:
    shown = {place: s for place, s in samples.items() if s.mean > 0 or not log}
    xs, ys = [place + shift for place in shown], [sample.mean for sample in shown.values()]
    ends = [(s.interval.low, s.interval.high) if s.interval else (s.mean, s.mean) for s in shown.values()]
    low = [y - max(end, _LEAST if log else 0.0) if end < y else 0.0 for y, (end, _) in zip(ys, ends, strict=True)]
    high = [end - y for y, (_, end) in zip(ys, ends, strict=True)]
    bars = axis.errorbar(xs, ys, yerr=[low, high], elinewidth=0.9, capsize=0, **look.options())
    for bar in bars.lines[2]:
        bar.set_alpha(0.65)
    empty = [place for place in samples if place not in shown]
    axis.plot(
        [place + shift for place in empty],
        [_LEAST] * len(empty),
        marker="v",
        linestyle="none",
        color=look.colour,
        markersize=5,
    )


def _whole(rows: Sequence[Row]) -> float:
    """The density of the networks of a line in percent, from the sums over their layers."""
    return 100.0 * float(sum(row["kept"] for row in rows)) / max(float(sum(row["weights"] for row in rows)), 1.0)


def _finish(figure: Figure, axes: Sequence[Axes], lines: Lines, columns: Columns) -> None:
    """Ticks of the layers and the legend."""
    names = {row["place"]: row["layer"].removesuffix(".weight") for rows in lines.of.values() for row in rows}
    places = sorted(names)
    last = axes[-1]
    if len(places) <= MOST_NAMES:
        last.set_xticks(places, [names[place] for place in places], rotation=0 if columns == 2 else 20)
        last.set_xlim(-0.4, len(places) - 0.6)
    else:
        step = -(-len(places) // (20 if columns == 2 else 10))
        last.set_xticks(places[::step], [str(place + 1) for place in places[::step]])
        last.set_xlabel("prunable layer, from the input on")
    handles = lines.handles()
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5 if columns == 2 else 3))


def _bars(lines: Lines) -> str:
    if lines.seeds < 2:
        return "One seed, so without intervals."
    return "Points are means over seeds, bars their 95 % intervals."
