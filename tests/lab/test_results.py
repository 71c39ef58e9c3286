"""Results: the tidy table says what the cells say, in every format."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow.parquet
import pytest

from oneticket.errors import InputError
from oneticket.lab.plan import Plan
from oneticket.lab.results import COLUMNS, as_csv, as_json, as_parquet, remember, tidy
from oneticket.lab.store import Store


@pytest.fixture(scope="module")
def done(shared_lab: Any) -> tuple[Plan, Store]:
    plan = shared_lab.plan(seeds=1, name="done")
    store = shared_lab.store("done")
    remember(plan, store)
    assert shared_lab.run(plan, store).complete
    return plan, store


def test_a_row_for_every_network_with_the_figures_of_its_cell(done: tuple[Plan, Store]) -> None:
    plan, store = done
    table = tidy(store)
    assert [row["cell"] for row in table] == [row.cell for row in plan.rows]
    for row, known in zip(table, plan.rows, strict=True):
        assert tuple(row) == COLUMNS
        record = store.read(row["cell"])
        for column in ("test_accuracy", "val_accuracy", "test_loss", "best_epoch", "steps_to_converge", "density"):
            assert row[column] == record["outcome"][column]
        for column in ("train_flops", "masked_flops", "seconds"):
            assert row[column] == record["cost"][column]
        for column in ("arm", "source", "target", "seed", "round", "density_asked", "search_trainings"):
            assert row[column] == getattr(known, column)


def test_csv_json_and_parquet_say_the_same(done: tuple[Plan, Store]) -> None:
    table = tidy(done[1])
    assert json.loads(as_json(table)) == table
    assert pyarrow.parquet.read_table(io.BytesIO(as_parquet(table))).to_pylist() == table
    read = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert len(read) == len(table)
    for text, row in zip(read, table, strict=True):
        assert text == {column: "" if row[column] is None else str(row[column]) for column in COLUMNS}
        assert float(text["test_accuracy"]) == row["test_accuracy"], "written in full"


def test_unfinished_cells_have_no_row(lab: Any, done: tuple[Plan, Store]) -> None:
    plan, store = done
    longer = lab.plan(seeds=2, name="longer")
    remember(longer, store)
    assert [row["seed"] for row in tidy(store, experiment="longer")] == [0] * len(plan.rows)
    assert {row["experiment"] for row in tidy(store, experiment="longer")} == {"longer"}


def test_an_empty_table_has_its_header_in_every_format(lab: Any) -> None:
    store = lab.store()
    assert tidy(store) == []
    assert as_csv([]) == ",".join(COLUMNS) + "\n"
    assert json.loads(as_json([])) == []
    assert pyarrow.parquet.read_table(io.BytesIO(as_parquet([]))).column_names == list(COLUMNS)


def test_an_unknown_experiment_is_refused_with_the_nearest(done: tuple[Plan, Store]) -> None:
    with pytest.raises(InputError, match=r"unknown experiment 'dne'.*did you mean 'done'"):
        tidy(done[1], experiment="dne")


def test_a_damaged_cell_is_told(lab: Any) -> None:
    plan, store = lab.plan(seeds=1), lab.store()
    remember(plan, store)
    lab.run(plan, store)
    (store.folder(plan.rows[0].cell) / "cell.json").write_text('{"description": {}')
    with pytest.raises(InputError, match="delete its folder and run again"):
        tidy(store)
