"""The heat map: what the tickets of each source are worth on each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from oneticket.report import anchors
from oneticket.report.baselines import Baseline
from oneticket.report.drawing import FAINT, WIDTHS, Columns, extent, link, styled
from oneticket.report.groups import at
from oneticket.report.tables import Comparison, SummaryRow

# Blue above, orange below: told apart with every common colour blindness, and in grey by the sign of the number.
_INK_ON_COLOUR = "#1f2327"  # not the ink of the page, which turns light on a dark screen while the fields stay
_MAP = LinearSegmentedColormap.from_list("points", ["#d55e00", "#f7f7f7", "#0072b2"])


@dataclass(frozen=True)
class HeatMap:
    """The rows of one arm, rescaling and density by (source, target), and the baseline they are compared with."""

    arm: str
    density: float
    baseline: Baseline
    sources: Sequence[str]
    targets: Sequence[str]
    fields: Mapping[tuple[str, str], SummaryRow]


def heat_map(rows: Sequence[SummaryRow], arm: str = "winning") -> HeatMap | None:
    """The map of ``arm`` at its lowest density, not rescaled, against the last baseline it is compared with.

    None where the arm has fewer than two sources or fewer than two targets there, or nothing to be compared with. Of
    several experiments or models the first is shown.
    """
    known = [row for row in rows if row.group.arm == arm and row.group.rescale == "none" and row.group.density_asked]
    if not known:
        return None
    first = known[0].group
    known = [row for row in known if (row.group.experiment, row.group.model) == (first.experiment, first.model)]
    lowest = min(row.group.density_asked or 1.0 for row in known)
    kept = [row for row in known if row.group.density_asked == lowest]
    found = [b for b in kept[0].versus if any(row.versus[b] is not None for row in kept)]
    sources = list(dict.fromkeys(at(row.group.source, row.group.source_recipe) for row in kept))
    targets = list(dict.fromkeys(at(row.group.target, row.group.target_recipe) for row in kept))
    if not found or len(sources) < 2 or len(targets) < 2:
        return None
    fields = {(at(g.source, g.source_recipe), at(g.target, g.target_recipe)): row for row in kept for g in [row.group]}
    return HeatMap(arm, lowest, found[-1], sources, targets, fields)


def draw_heat_map(shown: HeatMap, columns: Columns = 2) -> Figure:
    """The figure: differences in points with their 95 % intervals, colours from orange (below) to blue (above).

    A star marks a difference that :data:`oneticket.report.reading.STAR` calls significant. Sources are rows,
    targets columns.
    """
    with styled():
        return _figure(shown, columns)


def _figure(shown: HeatMap, columns: Columns) -> Figure:
    field = 0.42 if columns == 2 else 0.5
    figure = Figure(figsize=(WIDTHS[columns], 0.95 + field * len(shown.sources)), layout="constrained")
    axis = figure.subplots()
    found = {place: row.versus[shown.baseline] for place, row in shown.fields.items()}
    points = [100 * c.difference.mean for c in found.values() if c is not None]
    limit = max(map(abs, extent([*points, *(-point for point in points)])))
    for y, source in enumerate(shown.sources):
        for x, target in enumerate(shown.targets):
            row = shown.fields.get((source, target))
            comparison = found.get((source, target))
            if row is None or comparison is None:
                axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="none", edgecolor=FAINT, hatch="///"))
            else:
                _draw(axis, (x, y), row, comparison, limit, narrow=columns == 1 or len(shown.targets) > 4)
    axis.set_xticks(range(len(shown.targets)), shown.targets, rotation=0 if len(shown.targets) < 4 else 20)
    axis.set_yticks(range(len(shown.sources)), shown.sources)
    axis.set_xlim(-0.5, len(shown.targets) - 0.5)
    axis.set_ylim(len(shown.sources) - 0.5, -0.5)
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("target")
    axis.set_ylabel("source of the ticket")
    return figure


def _draw(
    axis: Axes, place: tuple[int, int], row: SummaryRow, found: Comparison, limit: float, *, narrow: bool
) -> None:
    mean, interval = 100 * found.difference.mean, found.difference.interval
    share = min(max(mean / limit, -1.0), 1.0)
    colour = _MAP(0.5 + 0.5 * share)
    x, y = place
    axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="none"))
    words = ("* " if found.significant() else "") + f"{mean:+.2f}"
    if interval is not None:
        words += ("\n" if narrow else " ") + f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"
    axis.text(
        x, y, words.replace("-", "−"), fontsize=7 if narrow else 8.5, linespacing=1.3,
        color="#ffffff" if abs(share) > 0.75 else _INK_ON_COLOUR,
        horizontalalignment="center", verticalalignment="center",
    )  # fmt: skip
    link(axis, [x], [y], [anchors.of_row(row.group)])
