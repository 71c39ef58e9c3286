"""The rows of the laboratory: synthetic plans and stores are what they say, and their commands work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from oneticket.bench.measures.chain import SHORT, measure_chain, reference_steps
from oneticket.bench.measures.gpu import TOGETHER, epochs_per_second
from oneticket.bench.measures.laboratory import Idle, finish, finish_moments, measure_laboratory, schedule
from oneticket.bench.rows import ROWS
from oneticket.bench.synthetic import large_experiment, search_experiment, tiny_cells
from oneticket.data import DataSpec
from oneticket.data.reference import open_data, resolve
from oneticket.errors import OneticketError
from oneticket.lab.cells.run import Workplace
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.scheduler import run_plan
from oneticket.lab.planning.plan import Plan, make_plan
from oneticket.lab.results.table import tidy
from oneticket.lab.spec.experiment import load_experiment


def planned(file: Path) -> Plan:
    return make_plan(load_experiment(file), folder=file.parent, cache=file.parent / "cache")


def test_a_large_experiment_has_as_many_cells_as_asked_for(tmp_path: Path) -> None:
    plan = planned(large_experiment(tmp_path, 300))
    assert len(plan.cells) == 300
    assert len(plan.rows) == 3 * 81


def test_the_tiny_cells_have_one_step_each(tmp_path: Path) -> None:
    plan = planned(tiny_cells(tmp_path, 5))
    assert len(plan.cells) == 5
    for cell in plan.cells.values():
        samples = len(open_data(cell.data, cache=tmp_path / "cache").train)
        assert (cell.recipe.epochs, -(-samples // cell.recipe.batch_size)) == (1, 1)


def test_a_finished_store_lacks_nothing(tmp_path: Path) -> None:
    plan = planned(large_experiment(tmp_path, 100))
    store = Store.open(tmp_path / "store", create=True)
    finish(plan, store)
    workplace = Workplace(store=str(store.root), cache=str(tmp_path / "cache"), folder=str(tmp_path))
    summary = run_plan(plan, store, Idle(), workplace, workers=2)
    assert (summary.cached, summary.trained, summary.complete) == (100, 0, True)
    rows = tidy(store)
    assert len(rows) == 81
    assert all(row["test_accuracy"] is not None for row in rows)
    assert len(finish_moments(store.root)) == 100


def test_a_plan_is_scheduled_whole_without_computing(tmp_path: Path) -> None:
    told = schedule(large_experiment(tmp_path, 200))
    assert told["cells"] == 200
    assert min(told["planning"], told["scheduling"]) > 0
    assert 50 < told["megabytes"] < 10_000
    assert not finish_moments(tmp_path / "store")


def test_the_images_of_a_search_are_those_of_the_workload(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    experiment = load_experiment(search_experiment(tmp_path, SHORT, seeds=2, rounds=2))
    assert isinstance(experiment.data["noise"], DataSpec)
    splits = open_data(resolve(experiment.data, "noise", folder=tmp_path, cache=tmp_path / "c"), cache=tmp_path / "c")
    images = SHORT.images()
    wanted = sorted((label, bytes(p.flatten().tolist())) for p, label in zip(images.images, images.labels.tolist()))  # noqa: B905
    train = splits.train
    assert sorted((label, bytes(p.flatten().tolist())) for p, label in zip(train.gather(), train.labels.tolist())) == (  # noqa: B905
        wanted
    )
    assert len(splits.validation) == 0


@pytest.mark.parametrize(("rounds", "cells"), [(0, 2), (1, 4), (2, 6), (10, 22)])
def test_a_search_has_a_cell_for_each_training_of_the_reference_chain(tmp_path: Path, rounds: int, cells: int) -> None:
    plan = planned(search_experiment(tmp_path, SHORT, seeds=2, rounds=rounds))
    assert len(plan.cells) == cells


def test_together_counts_while_all_of_them_run() -> None:
    ends = {"a": [(0.0, 1), (1.0, 2), (2.0, 3)], "b": [(1.0, 1), (2.0, 3), (9.0, 4)]}
    assert epochs_per_second(ends) == pytest.approx(1 + 2)
    with pytest.raises(OneticketError, match="did not run together"):
        epochs_per_second({"a": [(0.0, 1), (1.0, 2)], "b": [(1.0, 1), (2.0, 2)]})
    assert TOGETHER.steps * TOGETHER.batch_size >= 10_000


@pytest.mark.slow
def test_the_module_is_a_command(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "oneticket.bench.measures.laboratory", str(large_experiment(tmp_path, 100))]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert '"cells": 100' in told


@pytest.mark.slow
def test_the_two_chains_take_equally_many_steps() -> None:
    found = measure_chain(ROWS["chain"], bf16=False, short=True, repeats=1)
    steps = found.details["optimiser steps"]
    assert steps["ours"] == steps["reference"] == reference_steps(SHORT, 2, 2)
    assert found.measured is not None
    assert found.seconds["ours"][0] > 0


@pytest.mark.slow
def test_the_rows_of_the_laboratory_are_measured() -> None:
    rows = [row for row in ROWS.values() if row.group == "laboratory"]
    found = measure_laboratory(rows, short=True, repeats=1)
    assert {entry.row for entry in found} == {row.name for row in rows}
    assert all(entry.measured is not None and entry.measured.median > 0 for entry in found)
