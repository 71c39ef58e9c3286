"""Tickets taken out of a store: what its arms trained with, and where that comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from oneticket.cli import main
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.lab.results.table import remember, tidy
from oneticket.lab.results.tickets import stored_tickets
from oneticket.sharing import place_of, pull, read_index


@pytest.fixture(scope="module")
def lab(shared_lab: Any) -> Any:
    return shared_lab


@pytest.fixture(scope="module")
def store(lab: Any) -> Store:
    store = lab.store("tickets")
    plan = lab.plan(seeds=1, search__rounds=2, transfer__0__densities=[0.25], transfer__0__arms=["winning", "random"])
    lab.run(plan, store)
    remember(plan, store)
    return store


def test_a_stored_ticket_is_what_its_arm_began_with(lab: Any, store: Store) -> None:
    rows = tidy(store)
    ((ticket, experiment, source, density),) = stored_tickets(store, rows, lab.cache)
    assert (experiment, source, density) == ("tiny", "low@sgd", 0.25)
    (winning,) = (row for row in rows if row["arm"] == "winning")
    assert ticket.masks == load_masks(store.file(winning["cell"], "masks.safetensors"))
    dense = store.read(winning["cell"])["description"]["start"]["ticket"]["dense"]
    early = load_state(store.file(dense, "weights-1ep.safetensors"))
    for name, mask in ticket.masks.items():
        assert torch.equal(ticket.weights[name], early[name] * mask)
    assert all(torch.equal(tensor, early[name]) for name, tensor in ticket.rest.items())
    about = ticket.provenance
    assert (about.model, about.round, about.rounds, about.rewind, about.seed) == ("lenet-300-100", 2, 2, "1ep", 0)
    (seen,) = about.seen
    assert (seen.name, seen.classes, seen.recipe["lr"]) == ("low", 5, 0.1)


def test_a_zoo_is_made_of_a_store(
    lab: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    making = ["zoo", "make", str(store.root), "--cache", str(lab.cache)]
    for expected in ("written", "there already"):
        with pytest.raises(SystemExit) as ended:
            main(making)
        assert not ended.value.code
        assert capsys.readouterr().out == f"zoo/lenet-300-100-low-sgd-25: {expected}\n"
    index = read_index(place_of("zoo"))
    assert index is not None
    assert [entry.seen for entry in index.tickets] == [("low",)]
    assert pull(place_of("zoo")).verification.kept == index.tickets[0].kept
    card = Path("zoo/lenet-300-100-low-sgd-25/README.md").read_text("utf-8")
    assert "| winning |" in card
    assert "| random |" in card
