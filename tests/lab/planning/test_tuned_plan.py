"""The plan of a tuned grid: which cells there are, that rates alone are as before, and what rows say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from oneticket.errors import InputError
from oneticket.lab.cells.description import ArmStart

GRID = {"targets": ["digits@sgd"], "arms": ["own", "l1"], "densities": [0.5]}
TUNE = {"lr": [0.05, 0.2, 0.8], "strength": [0.01, 0.1, 1.0], "cut": [0.3, 0.5], "trials": 3}


def plan(lab: Any, **grid: Any) -> Any:
    return lab.plan(lab.raw(transfer=[GRID | grid]))


def test_rates_alone_are_the_same_rows_and_cells_in_either_form(lab: Any) -> None:
    short, long = plan(lab, lr=[0.05, 0.2]), plan(lab, tune={"lr": [0.05, 0.2]})
    assert list(short.cells) == list(long.cells)
    assert short.rows == long.rows
    assert [(row.lr, row.tuned, row.trials) for row in short.rows[:2]] == [(0.05, "lr=0.05", 2), (0.2, "lr=0.2", 2)]


def test_settings_are_ordinary_cells_the_same_for_every_seed(lab: Any) -> None:
    found = plan(lab, tune=TUNE)
    cells = {row.tuned: found.cells[row.cell] for row in found.rows if row.arm == "l1" and row.seed == 0}
    assert len(cells) == 3
    for text, cell in cells.items():
        assert isinstance(cell.start, ArmStart)
        options = cell.start.options
        assert text == f"lr={cell.recipe.lr}, strength={options['strength']}, cut={options['cut']}"
    arms = [(row.arm, row.tuned, row.trials_at_edge) for row in found.rows if row.seed == 0]
    assert arms == [(row.arm, row.tuned, row.trials_at_edge) for row in found.rows if row.seed == 1]
    assert {row.trials for row in found.rows} == {3}
    assert {row.trials_at_edge for row in found.rows if row.arm == "own"} == {"lr", ""}


def test_an_untuned_cell_keeps_its_name_when_it_is_one_of_the_settings(lab: Any) -> None:
    usual, tuned = plan(lab), plan(lab, tune={"strength": [0.01, 0.1], "lr": [0.1, 0.2]})
    assert {row.cell for row in usual.rows} <= {row.cell for row in tuned.rows}
    row = usual.rows[0]
    assert (row.tuned, row.trials, row.trials_at_edge) == ("", None, "")
    assert {"tuned", "trials", "trials_at_edge"} <= set(msgspec.structs.asdict(row))


def test_settings_without_validation_are_refused(lab: Any) -> None:
    with pytest.raises(InputError, match=r"transfer\[0\].tune.*settings are chosen by validation accuracy"):
        lab.plan(lab.raw(transfer=[GRID | {"tune": TUNE}], data__digits__validation=0))
