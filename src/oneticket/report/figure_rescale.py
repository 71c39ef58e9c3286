"""The grid of rescalings and arms: what rescaling is worth to each arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.figure import Figure

from oneticket.errors import InputError
from oneticket.report.captions import n_of
from oneticket.report.drawing import INK, WIDTHS, Columns, extent, styled
from oneticket.report.fields import GAINS, Field, Label, draw_fields
from oneticket.report.figure_by_arm import shortened
from oneticket.report.formatting import density as as_percent
from oneticket.report.formatting import percent
from oneticket.report.groups import at
from oneticket.report.lines import Drawn
from oneticket.report.palette import arm_colour, arm_order
from oneticket.report.tables import SummaryRow

Place = tuple[str, tuple[str, str]]
"""A rescaling, and an arm with its source."""


def draw_rescale(rows: Sequence[SummaryRow], columns: Columns = 2) -> Drawn:
    """The figure of one target at its lowest density, and its caption.

    A row for each arm (and source, where an arm has several), a column for each rescaling. Numbers are mean test
    accuracies in percent with their 95 % intervals, where there is room for them; colours are differences to the same
    arm without rescaling.

    Parameters
    ----------
    rows : Sequence[SummaryRow]
        The summary of one target.
    columns : {1, 2}
        The width, in columns of a page of two.

    Raises
    ------
    InputError
        Where no arm was rescaled.
    """
    sparse = [row for row in rows if row.group.arm != "dense" and row.group.density_asked is not None]
    lowest = min((row.group.density_asked or 1.0 for row in sparse), default=None)
    found = {_place(row): row for row in sparse if row.group.density_asked == lowest}
    if len({rescale for rescale, _ in found}) < 2:
        raise InputError("no arm of the table has two rescalings", expected='rescale = ["none", …] in the experiment')
    with styled():
        figure = _figure(found, columns)
    counts = [row.accuracy.n for row in found.values()]
    bracketed = max(counts) > 1 and _has_room(_rescales(found), columns)
    told = f"Test accuracy in percent of each arm under each rescaling at {as_percent(lowest)} % of the weights: means "
    told += f"over seeds ({n_of(counts)})" + (", brackets hold 95 % intervals" if bracketed else "")
    return Drawn(figure, f"{told}. Blue is better, orange worse than the same arm without rescaling.")


def _place(row: SummaryRow) -> Place:
    group = row.group
    return group.rescale, (group.arm, "" if group.arm == "own" else at(group.source, group.source_recipe))


def _figure(found: Mapping[Place, SummaryRow], columns: Columns) -> Figure:
    rescales, arms = _rescales(found), sorted({arm for _, arm in found}, key=lambda arm: (arm_order(arm[0]), arm[1]))
    gains = {place: _gain(found, place) for place in found}
    limit = max(map(abs, extent([*gains.values(), *(-gain for gain in gains.values())])))
    whole = _has_room(rescales, columns)
    fields = {
        (y, x): Field(_words(found[place], whole=whole), min(max(0.5 + 0.5 * gains[place] / limit, 0.0), 1.0))
        for y, arm in enumerate(arms)
        for x, rescale in enumerate(rescales)
        if (place := (rescale, arm)) in found
    }
    several = {arm for arm, _ in arms if sum(other == arm for other, _ in arms) > 1}
    names = [(arm, f"{arm}, from {source}" if arm in several else arm) for arm, source in arms]
    down = [Label(name if columns == 2 else shortened(name), arm_colour(arm)) for arm, name in names]
    figure = Figure(figsize=(WIDTHS[columns], 0.8 + (0.34 if whole else 0.28) * len(arms)), layout="constrained")
    axis = figure.subplots()
    small = columns == 1 or len(rescales) > 5
    draw_fields(axis, fields, down, [Label(name, INK) for name in rescales], GAINS, small=small)
    axis.set_xlabel("rescaling")
    return figure


def _rescales(found: Iterable[Place]) -> list[str]:
    return sorted({rescale for rescale, _ in found}, key=lambda name: (name != "none", name))


def _has_room(rescales: Sequence[str], columns: Columns) -> bool:
    """Whether there is room for intervals."""
    return len(rescales) <= 3 * columns


def _gain(found: Mapping[Place, SummaryRow], place: Place) -> float:
    """The difference of means to the same arm without rescaling, in points; 0 where that was not trained."""
    plain = found.get(("none", place[1]), found[place])
    return 100 * (found[place].accuracy.mean - plain.accuracy.mean)


def _words(row: SummaryRow, *, whole: bool) -> str:
    told, interval = percent(row.accuracy.mean), row.accuracy.interval
    return f"{told}\n[{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if whole and interval else told
