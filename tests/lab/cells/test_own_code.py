"""The name of a cell knows all code that computes it, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneticket.errors import InputError
from oneticket.lab.cells.description import CellNamer, Description, Round
from oneticket.lab.cells.own_code import OwnCode
from oneticket.lab.cells.run import run_cell
from oneticket.methods import METHODS
from oneticket.models import MODELS
from oneticket.pruning import CONTROLS, CRITERIA
from oneticket.registry import Registry
from oneticket.trust.importing import load_code, module_digest
from oneticket.weights import DRAWS, RESCALINGS

REGISTRIES: tuple[Registry[Any, Any], ...] = (CRITERIA, CONTROLS, DRAWS, METHODS, RESCALINGS, MODELS)
OWN = """
import torch
from scale_{0} import SCALE
from oneticket.masks import Masks
from oneticket.methods import method
from oneticket.models import model
from oneticket.pruning import control, criterion
from oneticket.training import Callback
from oneticket.weights import draw, rescaling

@criterion("own-criterion")
def score(model, _):
    return {{name: w.detach().abs() * SCALE for name, w in model.weights()}}

@control("own-control")
def shuffled(ticket, context):
    return Masks({{n: m[torch.randperm(len(m), generator=context.generator)] for n, m in ticket.items()}})

@draw("own-draw")
def start(context):
    return dict(context.initial)

@rescaling("own-rescaling")
def same(weights, masks, context):
    return dict(weights)

@method("own-method")
def plain(_):
    return Callback()

@model("own-model")
def net(input_shape, classes):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] ** 2 * input_shape[0], 12), nn.ReLU(), nn.Linear(12, classes))
"""  # noqa: E501


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = [dict(registry._entries) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry._entries = entries


def registered(lab: Any, scale: int = 1) -> dict[str, str]:
    """Register the own parts, whose helper has another content for another scale."""
    name = f"own_parts_{abs(hash((str(lab.folder), scale)))}"
    helper = name.removeprefix("own_parts_")
    for registry in REGISTRIES:
        for word in [word for word in registry if word.startswith("own-")]:
            del registry._entries[word]
    (lab.folder / f"{name}.py").write_text(OWN.format(helper))
    (lab.folder / f"scale_{helper}.py").write_text(f"SCALE = {scale}\n")
    code = {name: module_digest(name, lab.folder, ())}
    load_code(code, lab.folder, ())
    return code


def kinds(plan: Any) -> set[str]:
    return {kind for cell in plan.cells.values() for kind in cell.code or {}}


ARMS = {
    "own-control": {"mask": "own-control", "weights": "re-drawn"},
    "own-draw": {"mask": "ticket", "weights": "own-draw"},
    "own-method": {"mask": "ticket", "weights": "initial", "method": "own-method"},
}


@pytest.mark.parametrize("part", ["criterion", "control", "draw", "rescaling", "method", "model"])
def test_another_content_of_a_file_that_it_imports_gives_other_names(lab: Any, part: str) -> None:
    def names(scale: int) -> set[str]:
        registered(lab, scale)
        changes: dict[str, Any] = {
            "criterion": {"search__criterion": "own-criterion"},
            "rescaling": {"transfer__0__rescale": ["own-rescaling"]},
            "model": {"model": "own-model"},
        }.get(part, {"arm": {"mine": ARMS.get(f"own-{part}")}, "transfer__0__arms": ["mine"]})
        plan = lab.plan(seeds=1, **changes)
        if part != "model":
            assert kinds(plan) == {f"{part} own-{part}"}
        return {identity for identity, cell in plan.cells.items() if cell.code or cell.network.code}

    first, second = names(1), names(2)
    assert first
    assert not first & second


def test_cells_without_own_parts_keep_their_names(lab: Any) -> None:
    before = lab.plan(seeds=1)
    registered(lab)
    assert list(lab.plan(seeds=1).cells) == list(before.cells)
    changed = lab.plan(seeds=1, search__criterion="own-criterion")
    shared = set(before.cells) & set(changed.cells)
    assert shared == {name for name, cell in changed.cells.items() if not cell.code}
    assert any(isinstance(cell.start, Round) for cell in changed.cells.values())
    assert all(not isinstance(changed.cells[name].start, Round) for name in shared), "rounds are made by the criterion"
    assert all("code" not in msgspec.to_builtins(cell) for cell in before.cells.values())


def test_the_name_is_that_of_the_description_as_it_is_read_back(lab: Any) -> None:
    registered(lab)
    for cell in lab.plan(seeds=1, search__criterion="own-criterion").cells.values():
        assert CellNamer().identity(cell) == cell.identity
        assert msgspec.json.decode(msgspec.json.encode(cell), type=Description).identity == cell.identity


def test_a_cell_is_not_computed_with_other_code_than_it_was_planned_with(lab: Any, tmp_path: Path) -> None:
    registered(lab, 1)
    plan = lab.plan(seeds=1, search__criterion="own-criterion")
    cell = next(cell for cell in plan.cells.values() if cell.code)
    code = registered(lab, 2)
    with pytest.raises(InputError, match="has changed since the run began"):
        run_cell(cell, lab.workplace(lab.store(), code=code), tmp_path)
    assert OwnCode().of(cell.start) != cell.code


def test_every_digest_says_how_it_was_made(lab: Any) -> None:
    (code,) = registered(lab).values()
    assert re.fullmatch(r"2:[0-9a-f]{64}", code)
