"""The drawings of a report: which figures it has, their files, their captions, and their elements of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from oneticket.report import captions
from oneticket.report.anchors import of_line
from oneticket.report.drawing import Columns, render
from oneticket.report.figure_by_arm import draw_by_arm, has_one_density
from oneticket.report.figure_compute import draw_compute, spent, totals
from oneticket.report.figure_forest import Question, draw_forest, questions
from oneticket.report.figure_heat_map import draw_heat_map, heat_map
from oneticket.report.figures import draw
from oneticket.report.findings import main_arm
from oneticket.report.groups import at
from oneticket.report.inline import inline, standalone
from oneticket.report.palette import source_dashes
from oneticket.report.tables import Row, SummaryRow
from oneticket.report.writers import write

MOST_POINTS = 400
"""Points of a figure: more cannot be told apart, and would make the page heavy."""
MOST_DIFFERENCES = 48
"""Lines of the figure of differences."""


@dataclass(frozen=True)
class Shown:
    """A figure on the page: its drawings in two columns and in one, its caption, the names of its files."""

    wide: Markup
    narrow: Markup
    caption: str
    files: Sequence[str]


class Drawings:
    """The figures of one table of results; each is written to ``folder``."""

    def __init__(self, folder: Path, table: Sequence[Row], rows: Sequence[SummaryRow]) -> None:
        self._folder, self._rows = folder, rows
        self._dashes = source_dashes(
            at(row.group.source, row.group.source_recipe) for row in rows if row.group.arm not in ("dense", "own")
        )
        self._totals = totals(table)
        self._count = 0  # of figures: their ids are unique by it

    def of_everything(self) -> list[Shown]:
        """The figures of the first screen: the differences of the arm in question, and its map where it has one."""
        arm = main_arm(self._rows)
        if arm is None:
            return []
        shown = []
        whole = questions(self._rows, (arm,))
        asked = [question for question in whole if question.baseline == whole[0].baseline]
        asked = whole if _lines(whole) <= MOST_DIFFERENCES else _first(asked)
        if asked:
            caption = captions.forest(asked, arm, left_out=_lines(whole) - _lines(asked))
            shown.append(self._shown(lambda columns: draw_forest(asked, columns), "differences", caption))
        found = heat_map(self._rows, arm)
        if found is not None:
            shown.append(
                self._shown(lambda columns: draw_heat_map(found, columns), "heat-map", captions.heat_map(found))
            )
        return shown

    def of_section(self, rows: Sequence[SummaryRow], name: str, title: str) -> list[Shown]:
        """The figure of one target: accuracy against density, or of each arm at one density."""
        by_arm, kept = has_one_density(rows), _lightest(rows)

        def accuracy(columns: Columns) -> Figure:
            return draw_by_arm(kept, columns) if by_arm else draw(kept, self._dashes, columns)

        caption = captions.accuracy(rows, title, by_arm=by_arm, left_out=len(rows) - len(kept))
        return [self._shown(accuracy, name, caption, "pdf")]

    def of_costs(self, rows: Sequence[SummaryRow], name: str, title: str) -> list[Shown]:
        """Accuracy against compute of one target; none where fewer than two totals are known."""
        points = spent(self._totals, _lightest(rows))
        if len(points) < 2:
            return []
        caption = captions.compute(points, title)
        return [self._shown(lambda columns: draw_compute(points, columns), f"{name}-compute", caption)]

    def _shown(self, drawn: Callable[[Columns], Figure], name: str, caption: str, *kinds: str) -> Shown:
        """Draw a figure for wide and for narrow screens; the wide one is written as SVG and in these other kinds."""
        label, wide = caption.split(". ")[0], drawn(2)
        svg = render(wide, "svg")
        write(self._folder / f"{name}.svg", standalone(svg))
        for kind in kinds:
            write(self._folder / f"{name}.{kind}", render(wide, kind))
        self._count += 1
        narrow = inline(render(drawn(1), "svg"), f"n{self._count}", label, "narrow")
        return Shown(
            inline(svg, f"w{self._count}", label, "wide"),
            narrow,
            caption,
            [f"{name}.{kind}" for kind in ("svg", *kinds)],
        )


def _lines(asked: Sequence[Question]) -> int:
    return sum(len(question.rows) for question in asked)


def _first(asked: Sequence[Question]) -> list[Question]:
    """The first of these questions, as many as the figure of differences has room for."""
    return [
        question for place, question in enumerate(asked) if not place or _lines(asked[: place + 1]) <= MOST_DIFFERENCES
    ]


def _lightest(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """The rows of whole lines, in the order of the table, as many as a figure has room for; all of them as a rule."""
    if len(rows) <= MOST_POINTS:
        return list(rows)
    sizes: dict[str, int] = {}
    for row in rows:
        line = of_line(row.group)
        sizes[line] = sizes.get(line, 0) + 1
    kept: set[str] = set()
    room = MOST_POINTS
    for line, size in sizes.items():
        if size <= room:
            kept.add(line)
            room -= size
    return [row for row in rows if of_line(row.group) in kept]
