"""Arms over targets: which differences are put together, and what is shown of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from oneticket.report import over_targets, over_targets_table

Row = dict[str, Any]


def test_the_middle_half_is_that_of_all_seeds_and_targets(make_table: Callable[..., list[Row]]) -> None:
    rows = make_table(targets=["fashion@sgd", "mnist@sgd"], arms=["winning", "random"], densities=[0.21, 0.055])
    found = over_targets(rows, ["random"])
    assert [(row.arm, row.density, row.against, row.targets) for row in found] == [
        ("winning", 0.21, "random", 2),
        ("winning", 0.055, "random", 2),
    ]
    known = {(r["arm"], r["target"], r["source"], r["density_asked"], r["seed"]): r["test_accuracy"] for r in rows}
    for row in found:
        gains = [
            value - known["random", target, source, density, seed]
            for (arm, target, source, density, seed), value in known.items()
            if (arm, density) == ("winning", row.density)
        ]
        assert row.middle.n == len(gains) == 24
        assert row.middle.value == pytest.approx(stats.trim_mean(gains, 0.25), abs=1e-12)
    table = over_targets_table(found)
    assert table.header == ("weights %", "arm", "against", "targets", "n", "middle half")
    assert len(table.lines) == len(found)


def test_one_target_is_none_to_go_over(make_table: Callable[..., list[Row]]) -> None:
    assert over_targets(make_table(targets=["mnist@sgd"])) == []
