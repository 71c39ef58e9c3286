"""What the curves show: values, colours, axes, and when they are split into panels."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from oneticket.report import SummaryRow, summary
from oneticket.report.drawing import render
from oneticket.report.figures import draw, panels
from oneticket.report.groups import at
from oneticket.report.palette import arm_colour, arm_marker, source_dashes

Row = dict[str, Any]
Make = Callable[..., list[Row]]


def drawn(rows: Sequence[SummaryRow]) -> Figure:
    return draw(rows, source_dashes(at(row.group.source, row.group.source_recipe) for row in rows))


def bars(figure: Figure) -> list[ErrorbarContainer]:
    return [part for axes in figure.axes for part in axes.containers if isinstance(part, ErrorbarContainer)]


def test_points_are_means_and_bars_their_intervals(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["mnist@sgd"], arms=["winning"]))
    (bar,) = bars(drawn(rows))
    points = sorted((row for row in rows if row.group.arm == "winning"), key=lambda row: -(row.density or 0))
    line, _, (spread,) = bar.lines
    assert list(line.get_xdata()) == pytest.approx([21, 5.5, 1.8])
    assert list(line.get_ydata()) == pytest.approx([100 * row.accuracy.mean for row in points])
    for (low, high), row in zip(spread.get_segments(), points, strict=True):
        assert row.accuracy.interval is not None
        assert [low[1], high[1]] == pytest.approx([100 * row.accuracy.interval.low, 100 * row.accuracy.interval.high])


def test_the_dense_network_is_a_line_in_a_band(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"]))
    (dense,) = [row.accuracy for row in rows if row.group.arm == "dense"]
    axes = drawn(rows).axes[0]
    assert dense.interval is not None
    extents = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (extents.y0, extents.y1) == pytest.approx((100 * dense.interval.low, 100 * dense.interval.high))
    assert any(line.get_ydata()[0] == pytest.approx(100 * dense.mean) for line in axes.lines)


def test_every_line_has_the_colour_of_its_arm(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["mnist@sgd"]))
    figure = drawn(rows)
    arms = ["own", "winning", "preserved", "random"]
    assert [to_hex(bar.lines[0].get_color()) for bar in bars(figure)] == [arm_colour(arm) for arm in arms]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense", *arms, "from mnist@sgd"]


def test_sources_differ_in_their_dashes_and_rescalings_in_filling(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], arms=["winning"], rescales=["none", "layer"]))
    found = [bar.lines[0] for bar in bars(drawn(rows))]
    assert len({(line._unscaled_dash_pattern, line.get_fillstyle()) for line in found}) == len(found) == 4
    assert {line.get_fillstyle() for line in found} == {"full", "none"}
    assert {line.get_marker() for line in found} == {arm_marker("winning")}


def test_x_is_logarithmic_and_falls_to_the_right(make_table: Make) -> None:
    axes = drawn(summary(make_table(targets=["fashion@sgd"]))).axes[0]
    left, right = axes.get_xlim()
    assert axes.get_xscale() == "log"
    assert left > 21 > 1.8 > right
    assert [label.get_text() for label in axes.get_xticklabels()] == ["21", "5.5", "1.8"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weights remaining (%)", "test accuracy (%)")


def test_many_densities_get_round_ticks(make_table: Make) -> None:
    rounds = [0.8**n for n in range(1, 31)]
    axes = drawn(summary(make_table(targets=["fashion@sgd"], arms=["winning"], densities=rounds, seeds=2))).axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["50", "20", "10", "5", "2", "1", "0.5", "0.2"]


def test_less_than_a_point_of_accuracy_is_not_blown_up(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], sources=["fashion@sgd"], arms=["winning"], densities=[0.5]))
    low, high = drawn(rows).axes[0].get_ylim()
    assert high - low >= 1


def test_up_to_eight_lines_share_one_panel(make_table: Make) -> None:
    rows = summary(make_table(targets=["fashion@sgd"], arms=["winning", "own", "random", "preserved"]))
    (panel,) = panels(rows)
    assert len(panel.lines) == 7


def test_more_lines_are_split_by_source_with_the_own_ticket_in_each(make_table: Make) -> None:
    arms = ["winning", "own", "random", "preserved", "layer-permuted"]
    found = panels(summary(make_table(targets=["fashion@sgd"], arms=arms)))
    assert [panel.title for panel in found] == ["from fashion@sgd", "from mnist@sgd"]
    assert [[line.arm for line in panel.lines] for panel in found] == 2 * [
        ["own", "winning", "preserved", "layer-permuted", "random"]
    ]


def test_still_more_are_split_by_rescaling_and_no_line_is_lost(make_table: Make) -> None:
    arms = ["winning", "own", "random", "preserved", "layer-permuted"]
    rows = summary(make_table(targets=["fashion@sgd"], arms=arms, rescales=["none", "layer"]))
    found = panels(rows)
    assert [panel.title for panel in found] == [
        f"from {source}@sgd, rescale {rescale}" for source in ("fashion", "mnist") for rescale in ("none", "layer")
    ]
    shown = {row.group for panel in found for points in panel.lines.values() for row in points}
    assert shown == {row.group for row in rows if row.group.arm != "dense"}


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_the_same_rows_give_the_same_bytes_whatever_the_settings(
    make_table: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = summary(make_table(targets=["fashion@sgd"]))
    first = render(drawn(rows), kind)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 7, "svg.hashsalt": None, "xtick.major.size": 12}):
        assert render(drawn(rows), kind) == first
    assert b"CreationDate" not in first


def test_a_drawing_is_xml_with_its_text_as_text(make_table: Make) -> None:
    table = make_table(targets=["fashion@sgd"], sources=["<b>&_$x^2$@sgd"], arms=["winning"])
    rows = summary(table)
    root = ElementTree.parse(io.BytesIO(render(drawn(rows), "svg"))).getroot()
    words = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "weights remaining (%)" in words
    assert "from <b>&_$x^2$@sgd" in words


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("arms", "seeds", "densities"), [([], 1, []), (["winning"], 1, [0.1]), (["own"], 2, [1.0])])
def test_the_smallest_tables_can_be_drawn(
    make_table: Make, arms: list[str], seeds: int, densities: list[float]
) -> None:
    rows = summary(make_table(sources=["a@x"], targets=["a@x"], arms=arms, seeds=seeds, densities=densities))
    figure = drawn(rows)
    assert len(bars(figure)) == len(arms)
    assert render(figure, "svg").startswith(b"<?xml")
