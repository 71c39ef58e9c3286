"""The overlap of masks: for each two arms, the share of the weights of either that both keep, beside chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from matplotlib.figure import Figure

from oneticket.errors import InputError
from oneticket.report.captions import n_of
from oneticket.report.drawing import WIDTHS, Columns, styled
from oneticket.report.fields import SHARES, Field, Label, draw_fields
from oneticket.report.figure_by_arm import shortened
from oneticket.report.formatting import density as as_percent
from oneticket.report.groups import at
from oneticket.report.lines import Drawn, Row
from oneticket.report.palette import arm_colour, arm_order


class _Who(NamedTuple):
    arm: str
    source: str


def draw_overlap(rows: Sequence[Row], columns: Columns = 2) -> Drawn:
    """The figure of one target at its lowest density, and its caption.

    Parameters
    ----------
    rows : Sequence[Row]
        Rows of ``oneticket.lab.results.overlaps.COLUMNS``.
    columns : {1, 2}
        The width, in columns of a page of two.

    Raises
    ------
    InputError
        Without a row.
    """
    if not rows:
        raise InputError("no two networks of the table have masks to compare", expected="two arms at one density")
    lowest = min(row["density_asked"] for row in rows)
    found: dict[tuple[_Who, _Who], list[Row]] = defaultdict(list)
    for row in rows:
        if row["density_asked"] == lowest:
            one, other = _who(row), _who(row, "other_")
            found[one, other].append(row)
            found[other, one].append(row)
    names = sorted({who for pair in found for who in pair}, key=lambda who: (arm_order(who.arm), who.source))
    with styled():
        figure = _figure(found, names, columns)
    return Drawn(
        figure,
        "Weights that the masks of two arms both keep, in percent of those that either keeps (Jaccard), at "
        f"{as_percent(lowest)} % of the weights: means over seeds ({n_of(list(map(len, found.values())))}), both masks "
        "of the same seed. In brackets, what masks with as many weights in each layer share by chance.",
    )


def _who(row: Row, prefix: str = "") -> _Who:
    arm = row[f"{prefix}arm"]
    return _Who(arm, "" if arm == "own" else at(row[f"{prefix}source"], row[f"{prefix}source_recipe"]))


def _figure(found: Mapping[tuple[_Who, _Who], Sequence[Row]], names: Sequence[_Who], columns: Columns) -> Figure:
    small = columns == 1 or len(names) > 5
    figure = Figure(figsize=(WIDTHS[columns], 1.0 + 0.42 * len(names)), layout="constrained")
    fields = {
        (y, x): _field(found[one, other], small=small) if one != other else Field("", 0.0)
        for y, one in enumerate(names)
        for x, other in enumerate(names)
        if one == other or (one, other) in found
    }
    across = [Label(shortened(words, 14), arm_colour(who.arm)) for words, who in _labels(names)]
    down = [Label(shortened(words, 18), arm_colour(who.arm)) for words, who in _labels(names)]
    draw_fields(figure.subplots(), fields, down, across, SHARES, small=small)
    return figure


def _field(rows: Sequence[Row], *, small: bool) -> Field:
    share, chance = fmean(row["overlap"] for row in rows), fmean(row["layer_chance"] for row in rows)
    return Field(f"{100 * share:.1f}{chr(10) if small else ' '}[{100 * chance:.1f}]", share)


def _labels(names: Sequence[_Who]) -> list[tuple[str, _Who]]:
    """The arm of each, with its source where the arm has several."""
    several = {who.arm for who in names if sum(other.arm == who.arm for other in names) > 1}
    return [(f"{who.arm}, from {who.source}" if who.arm in several else who.arm, who) for who in names]
