"""Masks that a training of their own gives: what is planned, what it costs, what is refused; and a run of each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oneticket.errors import InputError
from oneticket.lab.cells.assembly import assemble
from oneticket.lab.cells.description import ArmStart, Description
from oneticket.lab.cells.parents import ParentCells, state_of
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.lab.planning.plan import Plan
from oneticket.lab.planning.rows import Row
from oneticket.lab.results.table import remember, tidy
from oneticket.lab.spec.arms import ARMS, Arm

SOURCE, TARGET, K = 3 * 6, 3 * 12, 6  # steps of the recipe on low and on digits; an epoch of low


def planned(lab: Any, *arms: str, budget: str = "equal-k", **changes: Any) -> Plan:
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": list(arms), "densities": [0.25]}
    plan: Plan = lab.plan(lab.raw(**{"seeds": 1, "transfer": [grid | {"budget": budget}]} | changes))
    return plan


def row(plan: Plan, arm: str) -> Row:
    return next(row for row in plan.rows if row.arm == arm)


def made(plan: Plan, arm: str) -> Description:
    start = plan.cells[row(plan, arm).cell].start
    assert isinstance(start, ArmStart)
    assert start.maker
    return plan.cells[start.maker]


@pytest.mark.slow
def test_every_arm_has_its_steps_and_those_before_it_in_the_table(lab: Any) -> None:
    """W_k costs the dense training; the search of cts as many steps as the source has; a calibration the target's."""
    arms = ["cts", "update-mask", "update-random", "sculpt"]
    sculpt = {"mask": "dense", "weights": "initial", "method": "sculpt", "options": {"cycles": 4}}
    plan, store = planned(lab, *arms, arm__sculpt=sculpt), lab.store()
    assert lab.run(plan, store).complete
    remember(plan, store)
    found = {r["arm"]: (r["own_steps"], r["total_steps"], r["search_trainings"]) for r in tidy(store)}
    assert found == {
        "dense": (TARGET, TARGET, 0),
        "cts": (TARGET, 2 * SOURCE + TARGET - K, 2),
        "update-mask": (TARGET, SOURCE + 2 * TARGET, 2),
        "update-random": (TARGET, SOURCE + TARGET, 1),
        "sculpt": (4 * TARGET, 4 * TARGET, 0),
    }
    kept = {arm: store.read(row(plan, arm).cell)["outcome"]["density"] for arm in found}
    total = store.read(row(plan, "dense").cell)["outcome"]["prunable"]
    quarter = round(0.25 * total) / total
    assert {arm for arm, density in kept.items() if density == 1.0} == {"dense", "update-mask", "update-random"}
    assert all(kept[arm] == pytest.approx(quarter, abs=0.5 / total) for arm in ("cts", "sculpt"))

    start = plan.cells[row(plan, "update-random").cell].start
    assert isinstance(start, ArmStart)
    assert start.ticket is not None
    before, after = (
        load_state(store.file(cell, "weights-end.safetensors"), load_masks(store.file(cell, "masks.safetensors")))
        for cell in (start.ticket.dense, row(plan, "update-random").cell)
    )
    name = "body.0.weight" if "body.0.weight" in before else next(n for n, v in before.items() if v.dim() == 2)
    stayed = (after[name] == before[name]).float().mean()
    assert stayed == pytest.approx(0.75, abs=0.02), "three quarters of the weights stay, the others move"
    assert not torch.equal(after[name], before[name])


def test_the_search_is_planned_once_for_all_targets_and_weights(lab: Any) -> None:
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd", "digits@adam"], "densities": [0.25]}
    arms = {"drawn": {"mask": "cts", "weights": "re-drawn"}, "slow": {"mask": "cts", "weights": "rewound",
            "mask_options": {"score_lr": 0.01}}}  # fmt: skip
    plan = planned(lab, arm=arms, transfer=[grid | {"arms": ["cts", "drawn", "slow"]}])
    assert made(plan, "cts") == made(plan, "drawn") != made(plan, "slow")
    searches = [c for c in plan.cells.values() if isinstance(c.start, ArmStart) and c.start.method == "cts"]
    assert len(searches) == 2
    assert not any(cell.test for cell in searches)
    assert made(plan, "cts").parents == (made(plan, "cts").start.ticket.dense,)  # type: ignore[union-attr]


def test_a_calibration_is_the_arm_that_fine_tunes_everything(lab: Any) -> None:
    plan = planned(lab, "update-mask", "dense-finetune")
    start = plan.cells[row(plan, "update-mask").cell].start
    assert isinstance(start, ArmStart)
    assert start.maker == row(plan, "dense-finetune").cell
    assert start.maker in plan.cells[row(plan, "update-mask").cell].parents


def test_an_arm_without_a_maker_is_described_as_before(lab: Any) -> None:
    plan = planned(lab, "winning", "update-random")
    for arm in ("winning", "update-random"):
        start = plan.cells[row(plan, arm).cell].start
        assert isinstance(start, ArmStart)
        assert not start.maker


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"mask": "ctx", "weights": "rewound"}, "did you mean 'cts'"),
        ({"mask": "cts", "weights": "rewound", "mask_options": {"score_rate": 1.0}}, "did you mean 'score_lr'"),
        ({"mask": "ticket", "weights": "rewound", "mask_options": {"score_lr": 1.0}}, "mask_options with mask"),
        ({"mask": "dense", "weights": "trained", "method": "update"}, "freezes nothing"),
        ({"mask": "ticket", "weights": "trained", "method": "update"}, "of which those outside are zero"),
    ],
)
def test_what_has_no_meaning_is_refused(arm: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Arm(**arm)


def test_update_masks_are_not_rescaled(lab: Any) -> None:
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "densities": [0.25], "rescale": ["none", "layer"]}
    plan = planned(lab, transfer=[grid | {"arms": ["update-mask", "cts", "winning"]}])
    assert {(r.arm, r.rescale) for r in plan.rows if r.arm != "dense"} == {
        ("update-mask", "none"), ("cts", "none"), ("cts", "layer"), ("winning", "none"), ("winning", "layer")
    }  # fmt: skip
    assert ARMS["cts"].needs == "ticket"


def test_an_arm_of_the_literature_may_have_a_search_of_its_own(lab: Any) -> None:
    """A Winning Sign by learning-rate rewinding with interpolated norms; its control without; winning as ever."""
    plan = planned(lab, "aws", "lrr-signed", "winning")
    found = {}
    for arm in ("aws", "lrr-signed", "winning"):
        start = plan.cells[row(plan, arm).cell].start
        assert isinstance(start, ArmStart)
        assert start.ticket is not None
        found[arm] = (start.ticket.search.method, start.ticket.search.norms or "plain")
    assert found == {
        "aws": ("lr-rewind", "interpolated"), "lrr-signed": ("lr-rewind", "plain"), "winning": ("rewind", "plain")
    }  # fmt: skip
    assert len({row(plan, arm).cell for arm in found}) == 3


@pytest.mark.parametrize("owner", ["source", "target"])
def test_the_head_has_the_signs_of_training_where_its_data_is_the_ticket_s(lab: Any, owner: str) -> None:
    mine = {"mask": "ticket", "weights": "sign-trained-all", "ticket": owner}
    plan, store = planned(lab, "mine", arm__mine=mine), lab.store()
    cell = plan.cells[row(plan, "mine").cell]
    needed, ahead = dict[str, Description](), list(cell.parents)
    while ahead:
        name = ahead.pop()
        needed[name] = plan.cells[name]
        ahead += plan.cells[name].parents
    assert lab.run(Plan("parents", dict(reversed(needed.items())), []), store).complete
    parents = ParentCells(store, lab.cache, lab.folder)
    begun, fresh = assemble(cell, parents).state, state_of(parents.build(cell.network, cell.seed))
    assert isinstance(cell.start, ArmStart)
    assert cell.start.ticket is not None
    trained, head = parents.trained(cell.start.ticket), f"{cell.network.head}.weight"
    assert torch.equal(begun[head].abs(), fresh[head].abs())
    if owner == "target":
        assert torch.equal(begun[head].sign(), trained[head].sign())
        assert not torch.equal(begun[head], fresh[head])
    else:
        assert torch.equal(begun[head], fresh[head])
