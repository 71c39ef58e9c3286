"""Tables say when their cells were computed with different threads, on different devices, in different precisions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oneticket.lab.cells.records import sealed
from oneticket.lab.results.surroundings import Facts, facts_of, mixtures
from oneticket.lab.results.table import remember

DENSE = {"targets": ["digits@sgd"], "arms": ["dense"]}


def finished(lab: Any) -> Any:
    plan, store = lab.plan(seeds=3, transfer=[DENSE]), lab.store()
    remember(plan, store)
    lab.run(plan, store)
    return plan, store


def test_cells_of_one_kind_are_not_mentioned(lab: Any) -> None:
    plan, store = finished(lab)
    facts = facts_of(store)
    assert {(fact.threads, fact.precision, fact.knows_processor) for fact in facts} == {("1", "float32", True)}
    assert all(fact.device.startswith("cpu") for fact in facts)
    assert sorted(fact.cell for fact in facts) == sorted(plan.cells)
    assert mixtures(facts) == []


@pytest.mark.parametrize("indented", [False, True])
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("threads", 2, "different numbers of threads: 1 (2 cells), 2 (1 cell)"),
        ("device", "cuda (NVIDIA H100)", "(2 cells), cuda (NVIDIA H100) (1 cell)"),
    ],
)
def test_a_mixture_is_told(lab: Any, key: str, value: Any, said: str, indented: bool) -> None:
    plan, store = finished(lab)
    cell = next(iter(plan.cells))
    record = store.read(cell)
    record["environment"][key] = value
    text = json.dumps(record, indent=1) if indented else sealed(record)  # indented: as earlier versions wrote it
    (store.folder(cell) / "cell.json").write_text(text)
    (told,) = mixtures(facts_of(store))
    assert said in told


def test_precisions_and_what_is_not_known() -> None:
    facts = [Facts("a", "1", "cpu (x)", "bf16", True), Facts("b", "", "cpu (x)", "float32", True)]
    (told,) = mixtures(facts)
    assert "different precisions: bf16 (1 cell), float32 (1 cell)" in told
