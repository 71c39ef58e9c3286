"""The extent of an axis: what it always shows, and what it leaves out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneticket.report.drawing import Extent, extent

numbers = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=1, max_size=40)


@given(numbers)
def test_at_most_a_sixth_of_the_points_are_left_out(points: list[float]) -> None:
    shown = extent(points)
    outside = [point for point in points if shown.side(point)]
    assert len(outside) <= len(points) / 6
    assert shown.high - shown.low >= 1


@given(numbers)
def test_a_point_is_left_out_only_where_the_rest_needs_at_most_half_of_the_axis(points: list[float]) -> None:
    shown = extent(points)
    inside = [point for point in points if not shown.side(point)]
    if len(inside) < len(points):
        assert max(inside) - min(inside) <= 0.5 * (max(points) - min(points))


def test_one_arm_at_68_does_not_squeeze_arms_between_95_and_97() -> None:
    shown = extent([97.1, 96.9, 96.4, 95.2, 95.9, 68.4])
    assert 94 < shown.low < 95.2
    assert 97.1 < shown.high < 98
    assert [shown.side(value) for value in (68.4, 96, 99)] == [-1, 0, 1]
    assert shown.inside(68.4) == shown.low


def test_a_wide_interval_is_cut_where_it_is_farther_away_than_the_points_are_apart() -> None:
    assert extent([90.0, 92.0], [(89.0, 91.0), (91.0, 93.0)]) == pytest.approx((91 - 1.08 * 2, 91 + 1.08 * 2))
    shown = extent([90.0, 92.0], [(20.0, 160.0), (91.0, 93.0)])
    assert shown == pytest.approx((91 - 1.08 * 3, 91 + 1.08 * 3))


def test_the_interval_of_a_point_that_is_left_out_does_not_count() -> None:
    points = [97.0, 96.9, 96.8, 96.7, 96.6, 68.0]
    intervals = [(point, point) for point in points[:-1]] + [(32.0, 104.0)]
    assert extent(points, intervals).high < 98


def test_the_axis_does_not_go_far_beyond_the_bound() -> None:
    shown = extent([98.0, 95.0], [(93.0, 103.0), (94.0, 96.0)], most=100)
    assert 100 < shown.high < 100.5


def test_without_points_there_is_an_axis() -> None:
    assert extent([]) == Extent(-0.54, 0.54)
