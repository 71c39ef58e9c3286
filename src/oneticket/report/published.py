"""Curves that others published, in grey behind the lines of a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes

from oneticket.report.drawing import SOFT
from oneticket.report.palette import SOURCE_DASHES

Published = Mapping[str, Sequence[tuple[float, float, float | None]]]
"""Curves of others by their label: density and accuracy in percent, and what is not drawn."""


_GAP = 0.035
"""The least distance between labels, of the height of the axis."""


def draw_published(axis: Axes, published: Published) -> None:
    """Grey curves where the axis reaches, each with its label beside its sparsest point there."""
    densest, sparsest = axis.get_xlim()
    ends: dict[str, tuple[float, float]] = {}
    for dash, (label, points) in zip(cycle(SOURCE_DASHES), published.items(), strict=False):
        shown = [(x, y) for x, y, _ in points if sparsest <= x <= densest]
        if shown:
            xs, ys = zip(*shown, strict=True)
            axis.plot(xs, ys, color=SOFT, alpha=0.55, linewidth=1.0, linestyle=dash, zorder=1, gid=f"published-{label}")
            ends[label] = shown[-1]
    low, high = axis.get_ylim()
    last = low - high
    for label, (x, y) in sorted(ends.items(), key=lambda end: end[1][1]):
        last = max(y, last + _GAP * (high - low))
        axis.annotate(
            label, (x, last), xytext=(3, 0), textcoords="offset points", fontsize=6.5, color=SOFT,
            verticalalignment="center", annotation_clip=True,
        )  # fmt: skip
