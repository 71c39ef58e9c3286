"""Tables with several rows a network: layers and movement, overlaps, histories; beside references of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from oneticket.errors import InputError
from oneticket.lab.cells.store import Store
from oneticket.lab.results.networks import TABLES, as_csv, from_csv
from oneticket.lab.results.table import remember, tidy

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ran(shared_lab: Any) -> tuple[Store, Rows]:
    """A store of the tiny experiment with one seed and two rescalings, and its tidy table."""
    store = shared_lab.store("networks")
    arms = {"arms": ["winning", "preserved", "random"], "rescale": ["none", "layer"], "densities": [0.25]}
    plan = shared_lab.plan(seeds=1, recipe__sgd__epochs=2, transfer=[shared_lab.raw()["transfer"][0] | arms])
    remember(plan, store)
    shared_lab.run(plan, store)
    return store, tidy(store)


def read(store: Store, cell: str, name: str) -> dict[str, np.ndarray]:
    """Tensors of a cell as documented in docs/store.md, in float64 and without our own reader."""
    with safe_open(store.folder(cell) / name, framework="numpy") as file:
        facts = json.loads(file.metadata()["oneticket"])
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if "shapes" in facts:
        return {
            key: np.unpackbits(found[key], count=int(np.prod(shape))).astype(bool).reshape(shape)
            for key, shape in facts["shapes"].items()
        }
    masks = read(store, cell, "masks.safetensors")
    for key in facts["kept_values_of"]:
        full = np.zeros(masks[key].shape)
        full[masks[key]] = found[key]
        found[key] = full
    return {key: value.astype(np.float64) for key, value in found.items()}


def one(rows: Rows, **where: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return row


def test_a_layer_says_what_it_keeps_and_how_far_it_went(ran: tuple[Store, Rows]) -> None:
    store, rows = ran
    found = TABLES["layers"][1](store, rows)
    network = one(rows, arm="winning", rescale="none")
    masks, end = (read(store, network["cell"], f"{name}.safetensors") for name in ("masks", "weights-end"))
    ticket = store.read(network["cell"])["description"]["start"]["ticket"]
    begun = read(store, ticket["dense"], "weights-1ep.safetensors")
    layers = [row for row in found if row["cell"] == network["cell"]]
    assert [row["place"] for row in layers] == list(range(len(masks)))
    assert [row["layer"] for row in layers] == sorted(masks)  # linear1, linear2: also the order of the network
    for row in layers:
        mask = masks[row["layer"]]
        old, new = begun[row["layer"]][mask], end[row["layer"]][mask]
        assert (row["weights"], row["kept"]) == (mask.size, mask.sum())
        assert row["flipped"] == np.sum(old * new < 0)
        assert row["distance"] == pytest.approx(np.sqrt(np.sum((new - old) ** 2)), rel=1e-9)
        assert row["norm"] == pytest.approx(np.sqrt(np.sum(old**2)), rel=1e-9)


def test_only_networks_that_began_at_w_k_have_moved_from_it(ran: tuple[Store, Rows]) -> None:
    store, rows = ran
    found = TABLES["movement"][1](store, rows)
    moved = {(row["arm"], row["rescale"]) for row in found if row["distance"] is not None}
    assert moved == {("dense", "none"), ("winning", "none")}


def test_overlaps_are_those_of_two_masks(ran: tuple[Store, Rows]) -> None:
    store, rows = ran
    found = TABLES["overlap"][1](store, rows)
    assert {frozenset((row["arm"], row["other_arm"])) for row in found} == {
        frozenset(pair) for pair in (("winning", "preserved"), ("winning", "random"), ("preserved", "random"))
    }
    for row in found:
        here, there = (read(store, row[cell], "masks.safetensors") for cell in ("cell", "other_cell"))
        shared = sum(np.sum(here[name] & there[name]) for name in here)
        either = sum(np.sum(here[name] | there[name]) for name in here)
        assert row["overlap"] == pytest.approx(shared / either)
        by_chance = sum(here[name].sum() * there[name].sum() / here[name].size for name in here)
        kept = sum(here[name].sum() + there[name].sum() for name in here)
        assert row["layer_chance"] == pytest.approx(by_chance / (kept - by_chance))


def test_histories_are_those_of_the_cells(ran: tuple[Store, Rows]) -> None:
    store, rows = ran
    found = TABLES["learning"][1](store, rows)
    for network in rows:
        lines = (store.folder(network["cell"]) / "history.jsonl").read_text().splitlines()
        told = [{key: row[key] for key in json.loads(lines[0])} for row in found if row["cell"] == network["cell"]]
        assert told[: len(lines)] == [json.loads(line) for line in lines]


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read_as_it_was_written(kind: str, ran: tuple[Store, Rows], tmp_path: Path) -> None:
    found = TABLES[kind][1](*ran)
    file = tmp_path / "table.csv"
    file.write_text(as_csv(kind, found))
    assert from_csv(kind, file) == found


def test_a_file_that_is_not_such_a_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("arm,seed\nwinning,0\n")
    with pytest.raises(InputError, match="has no column 'experiment'"):
        from_csv("layers", file)
    columns = TABLES["layers"][0]
    file.write_text(",".join(columns) + "\n" + ",".join("x" for _ in columns) + "\n")
    with pytest.raises(InputError, match=r"line 2, density_asked"):
        from_csv("layers", file)
    with pytest.raises(InputError, match="can't be read"):
        from_csv("layers", tmp_path / "missing.csv")
