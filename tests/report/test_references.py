"""Published curves: complete, drawn in grey behind ours where network and data agree, refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.report.drawing import SOFT
from oneticket.report.figure_kinds import make_figure
from oneticket.report.references import REFERENCES, Point, curves

Row = dict[str, Any]


@pytest.fixture
def ours(make_table: Callable[..., list[Row]]) -> list[Row]:
    """Invented networks that claim to be ResNet-20 on CIFAR-10."""
    one = {"sources": ["cifar10@sgd"], "targets": ["cifar10@sgd"], "arms": ["winning", "random"]}
    return [row | {"model": "resnet20", "test_images": 10_000} for row in make_table(**one, densities=[0.6, 0.1])]


def test_every_reference_has_curves_from_dense_to_sparse() -> None:
    for name in REFERENCES:
        assert curves(name)
        for points in curves(name).values():
            densities = [point.density for point in points]
            assert densities == sorted(densities, reverse=True)
            assert all(0 < density <= 100 for density in densities)
            assert all(0 < point.accuracy < 100 for point in points)
    assert curves("renda-2020")["IMP to 0"][-1] == Point(10.7, 86.74, 0.25)
    assert curves("gohil-2020")["CIFAR-100 ticket"][-1] == Point(0.12, 77.87, None)


def test_they_are_grey_and_behind_and_only_where_ours_are(ours: list[Row]) -> None:
    found = make_figure(ours, "accuracy", reference="renda-2020")
    (axis,) = found.figure.axes
    grey = {str(line.get_gid()): line for line in axis.lines if str(line.get_gid()).startswith("published-")}
    assert set(grey) == {f"published-{label}" for label in curves("renda-2020") if label != "dense"}
    line = grey["published-IMP to 0"]
    assert line.get_color() == SOFT
    assert line.get_zorder() < min(other.get_zorder() for other in axis.lines if other not in grey.values())
    assert list(line.get_xdata()) == [51.2, 21.0, 10.7]
    assert list(line.get_ydata()) == [90.58, 89.05, 86.74]
    low, high = axis.get_ylim()
    assert low < 86.74 < 91.9 < high
    assert "Grey, published: Renda et al. 2020" in found.caption
    assert "182 epochs" in found.caption
    plain = make_figure(ours, "accuracy")
    assert not [line for line in plain.figure.axes[0].lines if str(line.get_gid()).startswith("published-")]
    assert "Grey, published" not in plain.caption


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "resnet20(width=0.5)"}, "another network"),
        ({"target": "cifar100", "source": "cifar100"}, "another data"),
        ({"test_images": 355}, "another test images"),
        ({"test_images": None}, "another test images"),
    ],
)
def test_what_does_not_agree_is_refused(change: Row, told: str, ours: list[Row]) -> None:
    with pytest.raises(InputError, match=told):
        make_figure([row | change for row in ours], "accuracy", reference="renda-2020")


def test_unknown_names_and_other_figures_are_refused(ours: list[Row]) -> None:
    with pytest.raises(InputError, match="did you mean 'renda-2020'"):
        make_figure(ours, "accuracy", reference="renda-2021")
    with pytest.raises(InputError, match="no published curves"):
        make_figure(ours, "arms", reference="renda-2020")
