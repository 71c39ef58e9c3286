"""Definitions that were put right: cells that are computed otherwise have other names, and no other cell has."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from oneticket.data import DataRef
from oneticket.lab.cells.definitions import corrected
from oneticket.lab.cells.description import ArmStart, Description, Initial, Network, Round, TicketRef
from oneticket.search import Search
from oneticket.training import Recipe

NETWORK = Network(
    name="vgg11", options={}, code=None, input=(3, 8, 8), classes=10, head="head", prune_head=False, prunable=None
)


def ticket(number: int = 2, **search: Any) -> TicketRef:
    return TicketRef(dense="d" * 64, previous="e" * 64, round=number, density=0.25, search=Search(rounds=2, **search))


def arm(mask: str = "ticket", weights: str = "re-drawn", rescale: str = "none", **more: Any) -> ArmStart:
    fields: dict[str, Any] = {
        "allocation": "", "norms": "as-drawn", "method": "train", "options": {}, "density": 0.25,
        "ticket": None, "values": None, "pretrained": None, "rewind": "",
    }  # fmt: skip
    return ArmStart(mask=mask, weights=weights, rescale=rescale, **fields | more)


def cell(start: Any, optimizer: Any = "sgd", decay: float = 1e-4, **network: Any) -> Description:
    return Description(
        network=msgspec.structs.replace(NETWORK, **network),
        data=DataRef(fingerprint="f" * 64, steps=(), split=0),
        recipe=Recipe(optimizer=optimizer, lr=0.1, epochs=2, weight_decay=decay),
        seed=0,
        start=start,
    )


CHANGED = {
    "smart control": ("smart", cell(arm("smart"))),
    "smart allocation": ("smart", cell(arm("snip", allocation="smart"))),
    "smart search": ("smart", cell(Round(ticket=ticket(1, allocation="smart")))),
    "smart ticket": ("smart", cell(arm(ticket=ticket(allocation="smart")))),
    "smart weights": ("smart", cell(arm(ticket=ticket(), values=ticket(allocation="smart")))),
    "smart named weights": ("smart", cell(arm("smart"), prunable=("conv.weight",), prune_head=True)),
    "own model": ("fan-in", cell(arm(rescale="fan-in"), code="c" * 64)),
    "a model with a draw of its own": ("fan-in", cell(arm(rescale="fan-in"), name="vit")),
    "smup, adamw": ("smup", cell(arm(rescale="smup"), "adamw")),
    "smup, a round": ("smup", cell(Round(ticket=ticket(rescale="smup")), "adamw")),
}
SAME = {
    "dense": cell(Initial()),
    "smart, head pruned": cell(arm("smart"), prune_head=True),
    "smart, head named": cell(arm("smart"), prunable=("conv.weight", "head.weight")),
    "smart, nothing pruned yet": cell(arm(ticket=ticket(0, allocation="smart"))),
    "smart-vgg": cell(arm("smart-vgg", allocation="smart-vgg")),
    "built-in model": cell(arm(rescale="fan-in")),
    "a ticket's weights": cell(arm(weights="rewound", rescale="fan-in"), code="c" * 64),
    "signs": cell(arm(weights="sign-redrawn", rescale="fan-in"), code="c" * 64),
    "pre-trained": cell(arm(weights="rotation", rescale="fan-in", pretrained="p" * 64), code="c" * 64),
    "own model, layer": cell(arm(rescale="layer"), code="c" * 64),
    "smup, adam": cell(arm(rescale="smup"), "adam"),
    "smup, no decay": cell(arm(rescale="smup"), "adamw", 0.0),
    "smup in the search only": cell(arm(ticket=ticket(rescale="smup")), "adamw"),
    "adamw": cell(arm(rescale="layer"), "adamw"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_cell_that_is_computed_otherwise_says_so(what: str) -> None:
    name, changed = CHANGED[what]
    for normalised in (False, True):
        assert corrected(changed, normalised=normalised) == {name: 2}


@pytest.mark.parametrize("what", SAME)
def test_a_cell_that_is_computed_as_ever_says_nothing(what: str) -> None:
    for normalised in (False, True):
        assert corrected(SAME[what], normalised=normalised) == {}


@pytest.mark.parametrize("mask", ["aligned", "natural-corrected"])
def test_gains_change_a_mask_only_where_there_are_some(mask: str) -> None:
    assert corrected(cell(arm(mask)), normalised=True) == {mask: 2}
    assert corrected(cell(arm(mask)), normalised=False) == {}


def test_the_plan_writes_what_was_put_right_into_the_names_of_cells(lab: Any) -> None:
    raw = lab.raw(
        seeds=2,
        model=[{"name": "vgg11", "options": {"width": 0.0625, "norm": norm}} for norm in ("batch", "none")],
        data__digits={"builtin": "digits", "size": 32, "per_class": 10},
    )
    one = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "densities": [0.5], "rescale": ["none", "fan-in"]}
    plan = lab.plan({**raw, "transfer": [{**one, "arms": ["winning", "random", "smart", "aligned"]}]})
    found: dict[str, set[str]] = {}
    for row in plan.rows:
        description = plan.cells[row.cell]
        said = description.definitions
        plain = msgspec.structs.replace(description, definitions=msgspec.UNSET)
        assert (plain.identity == row.cell) == (said is msgspec.UNSET)
        for name in () if said is msgspec.UNSET else said:
            found.setdefault(f"{row.arm} {'batch' in row.model}", set()).add(name)
    assert found == {"smart True": {"smart"}, "smart False": {"smart"}, "aligned True": {"aligned"}}
