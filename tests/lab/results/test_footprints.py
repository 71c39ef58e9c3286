"""Footprints: the networks of a store as they predicted when they were judged, with figures of cells and new times."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import oneticket.lab.results.footprints
from oneticket.data import Normalisation
from oneticket.errors import InputError
from oneticket.lab.cells.parents import ParentCells
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.plan import Plan
from oneticket.lab.results.footprints import BATCHES, COLUMNS, as_csv, as_json, footprints, stored_network
from oneticket.lab.results.table import remember, tidy
from oneticket.methods.binary_inputs import binary_inputs
from oneticket.methods.packed import Predictor
from oneticket.training import evaluate

BINARY = ("binary-connect", "bwn", "xnor", "ternary")
GRID = {
    "sources": ["low@sgd"],
    "targets": ["digits@adam", "low@adam"],
    "arms": ["winning", "own", "random", *BINARY],
    "densities": [0.5, 0.125],
}
TERNARY = {"mask": "ticket", "weights": "rewound", "method": "xnor"}


class Seen:
    """Stands in for the clock: who was measured with whom, on what, with how many threads."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[nn.Module], torch.Tensor, int, int]] = []

    def __call__(
        self, networks: Mapping[Any, nn.Module], inputs: torch.Tensor, *, repeats: int, clock: Callable[[], float]
    ) -> dict[Any, float]:
        self.calls.append((list(networks.values()), inputs, repeats, torch.get_num_threads()))
        return {name: len(self.calls) + number / 1000 for number, name in enumerate(networks)}


@pytest.fixture(scope="module")
def done(shared_lab: Any) -> tuple[Plan, Store]:
    plan = shared_lab.plan(name="sizes", transfer=[GRID], arm={"ternary": TERNARY})
    store = shared_lab.store("sizes")
    remember(plan, store)
    assert shared_lab.run(plan, store).complete
    return plan, store


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    stand_in = Seen()
    monkeypatch.setattr(oneticket.lab.results.footprints, "seconds_per_sample", stand_in)
    return stand_in


def test_a_stored_network_predicts_as_it_did_when_it_was_judged(done: tuple[Plan, Store], shared_lab: Any) -> None:
    """Signs at the inputs of xnor included, without which it would be another network."""
    plan, store = done
    parents = ParentCells(store, shared_lab.cache, shared_lab.folder)
    for row in tidy(store):
        network = stored_network(row["cell"], parents)
        splits = parents.splits(plan.cells[row["cell"]])
        accuracy, loss = evaluate(network, splits.test, normalisation=Normalisation.of(splits.train))
        assert accuracy == row["test_accuracy"], row["arm"]
        assert loss == pytest.approx(row["test_loss"], rel=1e-5)
        assert bool(binary_inputs(network)) == (row["arm"] in ("xnor", "ternary"))


def test_a_training_that_diverged_counts_in_the_accuracy_and_has_no_network(
    done: tuple[Plan, Store], seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = done
    first = min(row["seed"] for row in tidy(store))
    gone = [r for r in tidy(store) if r["arm"] == "xnor" or (r["arm"] == "winning" and r["seed"] == first)]
    cells, asked = {row["cell"] for row in gone}, list[str]()
    rows = [r | {"test_accuracy": 0.1, "test_loss": None} if r["cell"] in cells else r for r in tidy(store)]
    monkeypatch.setattr(oneticket.lab.results.footprints, "tidy", lambda *_, **__: rows)
    network = stored_network
    monkeypatch.setattr(
        oneticket.lab.results.footprints,
        "stored_network",
        lambda cell, parents: (asked.append(cell), network(cell, parents))[1],
    )
    found = footprints(store)
    assert not cells & set(asked), "what is predicted with is a network of another seed"
    assert not any(line["arm"] == "xnor" for line in found)
    winning = next(line for line in found if line["arm"] == "winning")
    keys = ("arm", "target", "density_asked")
    accuracies = [r["test_accuracy"] for r in rows if all(r[key] == winning[key] for key in keys)]
    assert 0.1 in accuracies
    assert winning["n"] == len(accuracies) == len({r["seed"] for r in rows})
    assert winning["test_accuracy"] == pytest.approx(sum(accuracies) / len(accuracies))


def test_dense_winning_and_binary_networks_in_every_way_there_is(done: tuple[Plan, Store], seen: Seen) -> None:
    _, store = done
    rows = footprints(store)
    for target in ("digits", "low"):
        found = {(r["arm"], r["density_asked"], r["way"]) for r in rows if r["target"] == target}
        sparse = {("winning", rho, way) for rho in (0.5, 0.125) for way in ("dense kernels", "CSR")}
        packed = {("xnor", 1.0, "packed bits"), *(("ternary", rho, "packed bits") for rho in (0.5, 0.125))}
        plain = {(arm, 1.0, "dense kernels") for arm in ("dense", "binary-connect", "bwn", "xnor")}
        assert found == sparse | packed | plain | {("ternary", rho, "dense kernels") for rho in (0.5, 0.125)}
    assert len(rows) == 2 * 13, "each once"
    ways = {id(network): type(network) for networks, *_ in seen.calls for network in networks}
    assert list(ways.values()).count(Predictor) == 2 * 3


def test_figures_are_means_over_the_seeds_of_what_the_cells_say(done: tuple[Plan, Store], seen: Seen) -> None:
    _, store = done
    for row in footprints(store):
        assert tuple(row) == COLUMNS
        keys = ("target", "arm", "density_asked", "source")
        mine = [r for r in tidy(store) if all(r[key] == row[key] for key in keys)]
        assert row["n"] == len(mine) == 2
        first, second = (r["test_accuracy"] for r in mine)
        assert row["test_accuracy"] == pytest.approx((first + second) / 2, rel=1e-12)
        assert row["test_accuracy_deviation"] == pytest.approx(abs(first - second) / math.sqrt(2), abs=1e-12)
        assert row["bytes"] == sum(store.read(r["cell"])["outcome"]["bytes"] for r in mine) / 2


def test_all_networks_of_a_target_are_measured_together_with_one_thread(done: tuple[Plan, Store], seen: Seen) -> None:
    _, store = done
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rows = footprints(store)
        assert torch.get_num_threads() == 2, "as before"
    finally:
        torch.set_num_threads(before)
    assert [(len(networks), len(inputs)) for networks, inputs, _, _ in seen.calls] == [(13, 1), (13, 128)] * 2
    assert [(len(inputs), turns) for _, inputs, turns, _ in seen.calls[:2]] == list(BATCHES.items())
    assert {threads for *_, threads in seen.calls} == {1}
    assert not any(network.training for networks, *_ in seen.calls for network in networks)
    assert [row["seconds_1"] for row in rows[:13]] == [1 + number / 1000 for number in range(13)]
    assert [row["seconds_128"] for row in rows[13:]] == [4 + number / 1000 for number in range(13)]


def test_times_are_measured_and_nothing_is_written(done: tuple[Plan, Store]) -> None:
    _, store = done
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    assert all(row["seconds_128"] > 0 and row["seconds_1"] > 0 for row in footprints(store))
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_times_are_of_one_image(done: tuple[Plan, Store]) -> None:
    """By a clock that goes on by a second whenever somebody looks at it: each prediction takes one."""
    ticks = itertools.count()
    rows = footprints(done[1], clock=lambda: float(next(ticks)))
    assert {(row["seconds_1"], row["seconds_128"]) for row in rows} == {(1.0, 1 / 128)}
    assert next(ticks) == 2 * len(rows) * sum(BATCHES.values())


def test_csv_and_json_say_the_same(done: tuple[Plan, Store], seen: Seen) -> None:
    rows = footprints(done[1])
    assert json.loads(as_json(rows)) == rows
    for text, row in zip(csv.DictReader(io.StringIO(as_csv(rows))), rows, strict=True):
        assert text == {column: str(row[column]) for column in COLUMNS}


def test_a_store_without_such_networks_says_which_would_do(shared_lab: Any) -> None:
    plan, store = shared_lab.plan(seeds=1, name="nothing"), shared_lab.store("nothing")
    remember(plan, store)
    with pytest.raises(InputError, match=r"no finished network to measure; expected one of the arms dense, win"):
        footprints(store)
    with pytest.raises(InputError, match=r"unknown experiment 'nothin'"):
        footprints(store, experiment="nothin")


def test_a_cell_of_another_version_is_no_riddle(lab: Any) -> None:
    plan, store = lab.plan(seeds=1, transfer=[{**GRID, "targets": ["low@sgd"], "arms": ["random"]}]), lab.store()
    remember(plan, store)
    assert lab.run(plan, store).complete
    cell = next(row["cell"] for row in tidy(store) if row["arm"] == "dense")
    cell = lab.redescribed(store, cell, lambda description: description["network"].pop("head"))
    with pytest.raises(InputError, match=rf"the cell {cell[:12]}… was written by another version .*a new run"):
        footprints(store)
