"""The rows of sparse layers."""

from __future__ import annotations

import math

import pytest

from oneticket.bench.measures import sparse
from oneticket.bench.rows import ROWS, SPARSE_STEPS
from oneticket.kernels.sparse import building


def test_each_row_is_a_step_or_a_layer() -> None:
    assert {row.name for row in ROWS.values() if row.group == "sparse"} == {*SPARSE_STEPS, *sparse.LAYERS}


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({0.4: 0.5, 0.1: 2.0}, 0.2),
        ({0.4: 0.25, 0.1: 1.0}, 0.1),
        ({0.4: 1.5, 0.1: 3.0}, 0.4),
        ({0.4: 0.2, 0.1: 0.8}, 0.0),
        ({0.1: 4.0, 0.4: 0.9, 0.2: 0.95}, 0.1 * 2 ** (math.log(4) / math.log(4 / 0.95))),
    ],
)
def test_break_even(gains: dict[float, float], expected: float) -> None:
    assert sparse.break_even(gains) == pytest.approx(expected)


def test_without_kernels_the_rows_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "why_not", lambda: "no C compiler")
    (found,) = sparse.measure_sparse([ROWS["layer-64"]], short=True, repeats=1)
    assert (found.measured, found.note) == (None, "no C compiler")


@pytest.mark.skipif(not building.available(), reason="no C compiler")
def test_a_layer_is_measured_at_each_density(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sparse.LAYERS, "layer-64", sparse.Size(4, 5, 16))
    (found,) = sparse.measure_sparse([ROWS["layer-64"]], short=True, repeats=2)
    assert found.measured is not None
    assert len(found.measured.values) == 2
    assert list(found.against) == ["40 %", "30 %", "20 %", "10 %", "5 %", "2 %", "1 %"]
