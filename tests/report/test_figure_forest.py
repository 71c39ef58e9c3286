"""The forest plot: every difference with its interval, grouped by what it is a difference to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.colors import to_hex

from oneticket.report import summary
from oneticket.report.drawing import render
from oneticket.report.figure_forest import draw_forest, questions
from oneticket.report.palette import arm_colour, arm_marker

Row = dict[str, Any]
Make = Callable[..., list[Row]]


def test_questions_are_the_baselines_the_control_first(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["mnist@sgd"]))
    asked = questions(rows)
    assert [question.baseline.label for question in asked] == ["random", "dense"]
    assert len(asked[0].rows) == 3 * 3  # own, winning, preserved at three densities
    assert len(asked[1].rows) == 4 * 3
    assert [row.group.arm for row in asked[0].rows[::3]] == ["own", "winning", "preserved"]


def test_more_than_fit_are_those_of_the_lowest_density(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["mnist@sgd"]))
    asked = questions(rows, most=20)
    assert {row.group.density_asked for question in asked for row in question.rows} == {0.018}


def test_bars_are_the_intervals_and_points_the_differences(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], arms=["winning", "random"]))
    (question, _) = asked = questions(rows, ("winning",))
    axis = draw_forest(asked).axes[0]
    drawn = [line for line in axis.lines if to_hex(line.get_color()) == arm_colour("winning")]
    bars, points = ([line for line in drawn if (len(line.get_xdata()) == count)] for count in (2, 1))
    for row, bar, point in zip(question.rows, bars, points, strict=False):
        found = question.found(row).difference
        assert found.interval is not None
        assert list(bar.get_xdata()) == pytest.approx([100 * found.interval.low, 100 * found.interval.high])
        assert list(point.get_xdata()) == pytest.approx([100 * found.mean])
        assert point.get_marker() == arm_marker("winning")
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first line is the uppermost


def test_numbers_stand_beside_the_wide_figure_and_stars_beside_both(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], densities=[0.018]))
    asked = questions(rows)
    starred = sum(question.found(row).significant() for question in asked for row in question.rows)
    assert starred
    for columns in (1, 2):
        words = [text.get_text() for text in draw_forest(asked, columns).axes[0].texts]
        assert sum(word.startswith("*") for word in words) == starred
        assert any("[" in word for word in words) is (columns == 2)


def test_an_outlying_difference_is_an_arrow_and_does_not_squeeze_the_others(make_table: Make) -> None:
    table = make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], arms=["winning", "preserved", "random"])
    for row in table:
        if row["arm"] == "preserved" and row["density_asked"] == 0.018:
            row["test_accuracy"] -= 0.5
    axis = draw_forest(questions(summary(table)), 1).axes[0]
    assert axis.get_xlim()[0] > -30
    assert any(text.get_text().startswith("−5") for text in axis.texts)


def test_two_drawings_are_the_same_bytes(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], arms=["winning", "random"], densities=[0.018]))
    assert len({render(draw_forest(questions(rows)), "svg") for _ in range(2)}) == 1
