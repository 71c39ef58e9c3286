"""Figures as elements of a page: marks know their rows, files lead nowhere, an arm has one colour in all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from oneticket.report import anchors, summary
from oneticket.report.drawing import render
from oneticket.report.figure_by_arm import draw_by_arm
from oneticket.report.figure_compute import draw_compute, spent, totals
from oneticket.report.figure_forest import draw_forest, questions
from oneticket.report.figures import draw
from oneticket.report.inline import inline, standalone
from oneticket.report.palette import arm_colour

Row = dict[str, Any]
Make = Callable[..., list[Row]]
ARMS = ["own", "winning", "preserved", "random", "snip"]


def test_every_point_knows_its_row_and_every_line_its_group(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], densities=[0.21, 0.018], seeds=2))
    svg = render(draw(rows, {"mnist@sgd": "-"}), "svg")
    shown = inline(svg, "here", "a label", "wide")
    sparse = [row.group for row in rows if row.group.arm != "dense"]
    assert sorted(re.findall(r'data-row="(.*?)"', shown)) == sorted(map(anchors.of_row, sparse))
    assert set(re.findall(r'data-line="(.*?)"', shown)) == set(map(anchors.of_line, sparse))
    assert "<a" not in shown
    assert 'aria-label="a label"' in shown
    assert b"#row-" in svg
    assert b"#row-" not in standalone(svg)


def test_the_colour_of_an_arm_is_the_same_in_every_figure(make_table: Make) -> None:
    table = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], arms=ARMS, densities=[0.018], seeds=2)
    rows = summary(table)
    figures = [
        draw(rows, {"mnist@sgd": "-"}),
        draw_by_arm(rows),
        draw_forest(questions(rows)),
        draw_compute(spent(totals(table), rows)),
    ]
    for figure in figures:
        svg = inline(render(figure, "svg"), "here", "", "wide")
        for row in rows:
            if row.group.arm == "dense":
                continue
            groups = re.findall(rf'<g data-line="{anchors.of_line(row.group)}">(.*?)</g>', svg, re.DOTALL)
            colours = set(re.findall(r"(?:stroke|fill): (#[0-9a-f]{6})", " ".join(groups))) - {"#ffffff"}
            assert colours == {arm_colour(row.group.arm)}, row.group.arm
