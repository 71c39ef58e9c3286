"""Estimates: measured once for each kind of training, or taken from what is finished."""

from __future__ import annotations

from typing import Any

import pytest

import oneticket.lab.execution.estimate
from oneticket.lab.cells.description import Description
from oneticket.lab.execution.estimate import OVERHEAD, _density, _nearest, estimated_seconds
from oneticket.lab.planning.plan import Plan


def test_what_is_finished_gives_the_time_of_a_step_and_costs_nothing_more(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = lab.plan(seeds=2), lab.store()
    first = {identity: cell for identity, cell in plan.cells.items() if cell.seed == 0}
    lab.run(Plan("half", first, []), store)
    monkeypatch.setattr(oneticket.lab.execution.estimate, "_seconds_per_step", lambda *_: pytest.fail("measured again"))
    for identity in first:  # every finished step has taken a tenth of a second
        record = store.read(identity)
        record["cost"]["seconds"] = record["cost"]["steps"] / 10
        folder = store.folder(identity)
        folder.rename(store.root / "working" / identity)
        store.commit(identity, store.root / "working" / identity, record)
    steps = sum(store.read(identity)["cost"]["steps"] for identity in first)
    seconds = estimated_seconds(plan, store=store, cache=lab.cache, folder=lab.folder)
    assert seconds == pytest.approx(len(first) * OVERHEAD + steps / 10), "the other replicate has as many steps"
    whole = lab.plan(seeds=1)
    assert estimated_seconds(whole, store=store, cache=lab.cache, folder=lab.folder) == 0


def test_sparser_rounds_are_known_to_be_cheaper(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = lab.plan(seeds=2), lab.store()
    first = {identity: cell for identity, cell in plan.cells.items() if cell.seed == 0}
    lab.run(Plan("half", first, []), store)
    step = {identity: 0.1 * _density(cell) for identity, cell in first.items()}
    assert len(set(step.values())) > 2
    steps = {identity: store.read(identity)["cost"]["steps"] for identity in first}
    figures = {identity: {"steps": steps[identity], "seconds": steps[identity] * step[identity]} for identity in first}
    monkeypatch.setattr(type(store), "figures", lambda _, identity: figures[identity])
    seconds = estimated_seconds(plan, store=store, cache=lab.cache, folder=lab.folder)
    assert seconds == pytest.approx(sum(OVERHEAD + cost["seconds"] for cost in figures.values()))


def test_the_nearest_density_that_is_known_gives_the_time() -> None:
    times = {1.0: 3.0, 0.1: 1.0}
    assert [_nearest(times, density) for density in (0.9, 0.4, 0.3, 0.01)] == [3.0, 3.0, 1.0, 1.0]


def test_each_kind_of_training_is_measured_once(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def step(cell: Description, *_: Any) -> float:
        measured.append(f"{len(cell.data.steps)} {cell.recipe.optimizer}")
        return 0.5

    monkeypatch.setattr(oneticket.lab.execution.estimate, "_seconds_per_step", step)
    plan = lab.plan(seeds=2, transfer__0__targets=["digits@sgd", "digits@adam"])
    seconds = estimated_seconds(plan, store=None, cache=lab.cache, folder=lab.folder)
    assert sorted(measured) == ["1 adam", "1 sgd", "2 sgd"]
    per_epoch = {5: 6, 10: 12}
    steps = sum(
        per_epoch[cell.network.classes] * (cell.recipe.epochs - (0 if cell.test else 1)) for cell in plan.cells.values()
    )
    assert seconds == pytest.approx(len(plan.cells) * OVERHEAD + 0.5 * steps)


def test_a_measured_step_takes_some_time(lab: Any) -> None:
    plan = lab.plan(seeds=1, recipe__sgd__epochs=1000)
    longer = estimated_seconds(plan, store=None, cache=lab.cache, folder=lab.folder)
    assert longer > OVERHEAD * len(plan.cells)
