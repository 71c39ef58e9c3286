"""What a simulation of the statistics found, as tables of text and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.style
from matplotlib.figure import Figure

from oneticket.report.drawing import FAINT, INK, STYLE
from oneticket.report.formatting import Table
from oneticket.report.palette import ARM_COLOURS
from oneticket.statistics.simulation import ImageRates, Rates

NEW, RAW = ARM_COLOURS["winning"], ARM_COLOURS["random"]


class _Kind(NamedTuple):
    title: str
    field: str
    wanted: float


KINDS = (
    _Kind("95 % intervals of a mean accuracy that hold it, %", "mean", 95),
    _Kind("95 % intervals of a paired difference that hold it, %", "difference", 95),
    _Kind("Tables of four comparisons without a difference that have a star, %", "family", 5),
)


def simulated_tables(rates: Sequence[Rates]) -> list[tuple[str, Table]]:
    """A title and a table for each of :data:`KINDS`, a column for each number of seeds.

    Each field is the percentage without the variance of rounding, an arrow, and that with it.
    """
    return [(kind.title, _table(rates, kind)) for kind in KINDS]


def _table(rates: Sequence[Rates], kind: _Kind) -> Table:
    seeds = sorted({rate.n for rate in rates})
    lines: dict[tuple[str, str, str], dict[int, str]] = {}
    for rate in rates:
        place = ("shared" if rate.shared else "own", f"{rate.images:,}", f"{100 * rate.accuracy:g}")
        old, new = getattr(rate, f"raw_{kind.field}"), getattr(rate, kind.field)
        lines.setdefault(place, {})[rate.n] = f"{100 * old:.1f} → {100 * new:.1f}"
    return Table(
        header=("test split", "images", "accuracy %", *(f"n = {n}" for n in seeds)),
        lines=tuple((*place, *(texts.get(n, "") for n in seeds)) for place, texts in lines.items()),
        numeric=(False, *(True for _ in range(2 + len(seeds)))),
    )


def simulated_images(rates: Sequence[ImageRates]) -> tuple[str, Table]:
    """A title and a table, a column for each number of seeds: over seeds alone, an arrow, over seeds and images."""
    seeds = sorted({rate.n for rate in rates})
    lines: dict[tuple[str, str], dict[int, str]] = {}
    for rate in rates:
        place = f"{rate.images:,}", f"{100 * rate.accuracy:g}"
        lines.setdefault(place, {})[rate.n] = f"{100 * rate.seeds_only:.1f} → {100 * rate.two_way:.1f}"
    title = "95 % intervals of a paired difference that hold it for other seeds and images, %"
    return title, Table(
        header=("images", "accuracy %", *(f"n = {n}" for n in seeds)),
        lines=tuple((*place, *(texts.get(n, "") for n in seeds)) for place, texts in lines.items()),
        numeric=(True,) * (2 + len(seeds)),
    )


def draw_simulated(rates: Sequence[Rates]) -> Figure:
    """A panel for each of :data:`KINDS` against the number of seeds, a faint line for each setting."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        for axes, kind in zip(figure.subplots(1, len(KINDS)), KINDS, strict=True):
            seeds = sorted({rate.n for rate in rates})
            places = range(len(seeds))
            for prefix, colour in (("raw_", RAW), ("", NEW)):
                for setting in dict.fromkeys((rate.shared, rate.images, rate.accuracy) for rate in rates):
                    by_n = {r.n: r for r in rates if (r.shared, r.images, r.accuracy) == setting}
                    values = [100 * getattr(by_n[n], prefix + kind.field) for n in seeds]
                    axes.plot(places, values, color=colour, linewidth=0.8, alpha=0.6)
            axes.axhline(kind.wanted, color=INK, linewidth=0.8, linestyle="--", zorder=0)
            axes.axhspan(kind.wanted - 2, kind.wanted + 2, color=FAINT, alpha=0.5, zorder=-1)
            axes.set_xticks(places, map(str, seeds))
            axes.set_xlabel("seeds")
            axes.set_title(kind.title.replace(" that", "\nthat").replace(" without", "\nwithout"))
        for label, colour in (("without the variance of rounding", RAW), ("with it", NEW)):
            axes.plot([], [], color=colour, linewidth=1.2, label=label)
        axes.legend(frameon=False)
    return figure
