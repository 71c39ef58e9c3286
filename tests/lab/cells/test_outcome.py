"""The outcome of a cell: the same fields in the same order, whether the training went well or diverged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneticket.lab.cells.description import Description, Round
from oneticket.lab.cells.outcome import Outcome, diverged_outcome
from oneticket.lab.cells.run import run_cell

ALWAYS = [
    "val_accuracy", "best_epoch", "best_val_accuracy", "steps_to_converge", "density", "kept", "prunable", "collapsed",
    "bytes", "masked_nonzero", "effective_density", "dead_units",
]  # fmt: skip
TESTED = ["test_accuracy", "test_loss"]


@pytest.fixture
def plan(lab: Any) -> Any:
    return lab.plan(seeds=1, transfer__0__densities=[0.25])


def test_a_trained_cell_says_what_it_always_said(lab: Any, plan: Any, tmp_path: Path) -> None:
    dense = next(iter(plan.cells.values()))
    record = run_cell(dense, lab.workplace(lab.store()), tmp_path)
    assert list(record["outcome"]) == [*ALWAYS, *TESTED, "distance", "test_images"]
    assert msgspec.convert(record["outcome"], Outcome).diverged is msgspec.UNSET


def test_a_diverged_cell_says_the_same_and_why_before_all(plan: Any) -> None:
    def told(cell: Description) -> list[str]:
        return list(msgspec.to_builtins(diverged_outcome(cell, 1000, "the loss is nan", validated=True, test_images=9)))

    dense = next(iter(plan.cells.values()))
    search = next(cell for cell in plan.cells.values() if isinstance(cell.start, Round))
    assert told(dense) == ["diverged", *ALWAYS, *TESTED, "test_images"]
    assert told(search) == ["diverged", *ALWAYS]
