"""What all figures share: style, widths, the extent of an axis, marks that a page can find, and their files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1f2328", "#d8dbe0", "#ffffff"
SOFT = "#5c6570"

Columns = Literal[1, 2]
"""The width of a figure, in columns of a page of two."""
WIDTHS: dict[Columns, float] = {1: 3.5, 2: 7.0}
"""In inches."""

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

LETTER = 0.072
"""The mean width of a letter, in inches."""
_EACH = 6  # points for each one that may be left out
_SQUEEZED = 0.5  # the axis must become at least so much shorter before a point is left out of it


def styled() -> AbstractContextManager[None]:
    """The style of all figures, whatever the user's settings are."""
    context: AbstractContextManager[None] = matplotlib.style.context(["default", STYLE])
    return context


def render(figure: Figure, kind: str) -> bytes:
    """The figure as ``svg``, ``pdf`` or ``png`` (200 dots an inch); the same figure always gives the same bytes."""
    metadata: dict[str, Any] = {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
    }[kind]
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=200)
    return buffer.getvalue()


class Extent(NamedTuple):
    """The part of an axis that is shown; points outside it are drawn as arrows at its ends."""

    low: float
    high: float

    def side(self, value: float) -> int:
        """-1 below the extent, 1 above it, 0 inside."""
        return (value > self.high) - (value < self.low)

    def inside(self, value: float) -> float:
        """``value``, or the end of the extent that is nearest to it."""
        return min(max(value, self.low), self.high)


def extent(
    points: Sequence[float],
    intervals: Sequence[tuple[float, float]] = (),
    *,
    least: float = 1.0,
    most: float | None = None,
) -> Extent:
    """The extent of an axis that a few outlying points and wide intervals do not squeeze.

    Up to a sixth of the points are left out, from either side, if that at least halves the length that the others
    need. The intervals of the others are shown as far as they reach, but no farther beyond the points than these are
    apart.

    Parameters
    ----------
    points : Sequence[float]
        What is drawn, in the unit of the axis.
    intervals : Sequence of (float, float), optional
        The interval of each point.
    least : float, default 1
        The least length: on a shorter axis noise would look like a result.
    most : float, optional
        A bound that no value can pass, such as 100 %.

    Returns
    -------
    Extent
        With a margin of 4 % of its length on both sides; that of the least length around zero without points.
    """
    low, high = _kept(sorted(points)) if points else (0.0, 0.0)
    reach = max(high - low, least)
    pairs = zip(points, intervals, strict=True) if intervals else ()
    ends = [end for point, interval in pairs if low <= point <= high for end in interval]
    least_end, most_end = low - reach, high + reach if most is None else min(high + reach, max(most, high))
    low = min([low, *(max(end, least_end) for end in ends)])
    high = max([high, *(min(end, most_end) for end in ends)])
    middle, half = (low + high) / 2, max(high - low, least) / 2
    return Extent(middle - 1.08 * half, middle + 1.08 * half)


def _kept(points: Sequence[float]) -> tuple[float, float]:
    """The ends of the points that are shown: all, or without the outlying ones, the fewest that squeeze the rest."""
    whole = points[-1] - points[0]
    for dropped in range(1, len(points) // _EACH + 1):
        windows = [(points[first + len(points) - dropped - 1] - points[first], first) for first in range(dropped + 1)]
        length, first = min(windows)
        if length <= _SQUEEZED * whole and whole > 0:
            return points[first], points[first + len(points) - dropped - 1]
    return points[0], points[-1]


def arrow(
    axis: Axes, x: float, y: float, value: float, toward: str, colour: str, *, told: bool = True, stacked: int = 0
) -> None:
    """An arrow for a point outside the axis, which says its value where it is ``told``.

    ``x`` and ``y`` are where it stands, at the end of the axis; ``toward`` is ``left``, ``right``, ``up`` or ``down``.
    ``stacked`` is the number of arrows that already stand there.
    """
    marker, (dx, dy), where = {
        "left": ("<", (7, 0), ("left", "center")),
        "right": (">", (-7, 0), ("right", "center")),
        "up": ("^", (6, -1 - 9 * stacked), ("left", "top")),
        "down": ("v", (6, 1 + 9 * stacked), ("left", "bottom")),
    }[toward]
    axis.plot([x], [y], marker=marker, color=colour, markersize=5, linestyle="none", clip_on=False, zorder=4)
    if not told:
        return
    axis.annotate(
        f"{value:.1f}".replace("-", "−"), (x, y), xytext=(dx, dy), textcoords="offset points", fontsize=7.5,
        color=colour, horizontalalignment=where[0], verticalalignment=where[1], annotation_clip=False,
    )  # fmt: skip


def link(axis: Axes, xs: Sequence[float], ys: Sequence[float], anchors: Sequence[str]) -> None:
    """Invisible marks over points, each with the anchor of its row; a page turns them into something to point at."""
    if not xs:
        return
    marks = axis.scatter(xs, ys, s=130, color=INK, alpha=0.0, linewidths=0, zorder=5)
    marks.set_urls([f"#{anchor}" for anchor in anchors])
