"""The figure of one density: each arm on a line that is named, at its mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from oneticket.report import summary, write_report
from oneticket.report.figure_by_arm import draw_by_arm, has_one_density
from oneticket.report.palette import arm_colour

Row = dict[str, Any]
Make = Callable[..., list[Row]]


def test_each_arm_stands_on_its_line_at_its_mean_with_its_interval(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], densities=[0.055]))
    axes = draw_by_arm(rows).axes[0]
    shown = [row for row in rows if row.group.arm != "dense"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.group.arm for row in shown]
    bars = [part for part in axes.containers if isinstance(part, ErrorbarContainer)]
    for place, (bar, row) in enumerate(zip(bars, shown, strict=True)):
        line, _, (spread,) = bar.lines
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([pytest.approx(100 * row.accuracy.mean)], [place])
        assert to_hex(line.get_color()) == arm_colour(row.group.arm)
        ((low, high),) = spread.get_segments()
        assert row.accuracy.interval is not None
        assert [low[0], high[0]] == pytest.approx([100 * row.accuracy.interval.low, 100 * row.accuracy.interval.high])
    top, bottom = axes.get_ylim()
    assert top > bottom  # the first line is the uppermost


def test_the_dense_network_is_a_line_across_all_arms(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], densities=[0.055]))
    (dense,) = [row.accuracy for row in rows if row.group.arm == "dense"]
    axes = draw_by_arm(rows).axes[0]
    assert any(list(line.get_xdata()) == pytest.approx([100 * dense.mean] * 2) for line in axes.lines)


def test_lines_say_in_what_they_differ(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], arms=["winning"], densities=[0.055], rescales=["none", "layer"]))
    names = [label.get_text() for label in draw_by_arm(rows).axes[0].get_yticklabels()]
    assert names == [
        f"winning, rescale {rescale}, from {source}@sgd"
        for source in ("fashion", "mnist")
        for rescale in ("none", "layer")
    ]


@pytest.mark.parametrize(
    ("densities", "one"), [([0.055], True), pytest.param([0.21, 0.055], False, marks=pytest.mark.slow)]
)
def test_a_report_draws_dots_at_one_density_and_curves_at_several(
    make_table: Make, tmp_path: Path, densities: list[float], one: bool
) -> None:
    rows = make_table(targets=["fashion@sgd"], densities=densities)
    assert has_one_density(summary(rows)) is one
    page = write_report(rows, tmp_path).read_text("utf-8")
    assert ("a log axis" not in page) is one
    assert write_report(rows[::-1], tmp_path / "again").read_bytes() == (tmp_path / "report.html").read_bytes()
