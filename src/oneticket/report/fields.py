"""A grid of coloured fields with numbers in them, such as arms × rescalings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.patches import Rectangle

from oneticket.report.drawing import FAINT

# Blue above, orange below: told apart with every common colour blindness.
GAINS: Colormap = LinearSegmentedColormap.from_list("points", ["#d55e00", "#f7f7f7", "#0072b2"])
SHARES: Colormap = LinearSegmentedColormap.from_list("shares", ["#f7f7f7", "#0072b2"])
_INK_ON_COLOUR = "#1f2327"  # not the ink of the page, which turns light on a dark screen while the fields stay


class Field(NamedTuple):
    """What a field says, and its place on the colour map from 0 to 1; a field without words is of itself."""

    words: str
    place: float


class Label(NamedTuple):
    """The label of a row or a column, and its colour: that of its arm, where it is one."""

    words: str
    colour: str


def draw_fields(
    axis: Axes,
    fields: Mapping[tuple[int, int], Field],
    down: Sequence[Label],
    across: Sequence[Label],
    colours: Colormap,
    *,
    small: bool,
) -> None:
    """Draw ``fields`` by row and column; a field that is missing is hatched.

    Parameters
    ----------
    axis : Axes
        What to draw on; its ticks become the labels.
    fields : Mapping[tuple of int, Field]
        By row, counted from the top, and column.
    down, across : Sequence[Label]
        The labels of the rows and of the columns.
    colours : Colormap
        Of the fields.
    small : bool
        Whether there is little room.
    """
    for y in range(len(down)):
        for x in range(len(across)):
            _draw(axis, (x, y), fields.get((y, x)), colours, small=small)
    axis.set_xticks(range(len(across)), [label.words for label in across], rotation=25 if small else 0)
    axis.set_yticks(range(len(down)), [label.words for label in down])
    for ticks, labels in ((axis.get_xticklabels(), across), (axis.get_yticklabels(), down)):
        for tick, label in zip(ticks, labels, strict=True):
            tick.set_color(label.colour)
    axis.set_xlim(-0.5, len(across) - 0.5)
    axis.set_ylim(len(down) - 0.5, -0.5)
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def _draw(axis: Axes, place: tuple[int, int], field: Field | None, colours: Colormap, *, small: bool) -> None:
    x, y = place
    corner = (x - 0.5, y - 0.5)
    if field is None:
        axis.add_patch(Rectangle(corner, 1, 1, facecolor="none", edgecolor=FAINT, hatch="///"))
        return
    if not field.words:
        axis.add_patch(Rectangle(corner, 1, 1, facecolor=FAINT, edgecolor="none", alpha=0.4))
        return
    colour = colours(field.place)
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    axis.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="none"))
    axis.text(
        x, y, field.words, fontsize=6.5 if small else 8, linespacing=1.2,
        color="#ffffff" if light < 0.5 else _INK_ON_COLOUR,
        horizontalalignment="center", verticalalignment="center",
    )  # fmt: skip
