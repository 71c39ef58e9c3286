"""Plans: how many trainings, what is shared between them, and what their names depend on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.cells.description import ArmStart, Initial, Round
from oneticket.lab.planning.plan import Plan
from oneticket.lab.planning.rows import Row

FACTORY = """
from torch import nn

def net(input_shape, classes, hidden: int = 12):
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )
"""


def rows(plan: Plan, arm: str, **facts: Any) -> list[Row]:
    return [row for row in plan.rows if row.arm == arm and all(getattr(row, k) == v for k, v in facts.items())]


def names(plan: Plan) -> set[str]:
    return set(plan.cells)


def one_arm(*arms: str, **more: Any) -> dict[str, Any]:
    return {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": list(arms), "densities": [0.5, 0.125], **more}


# -- counts -------------------------------------------------------------------------------------------------------
def test_the_number_of_trainings_is_what_sharing_makes_of_it(lab: Any) -> None:
    """Rounds 0 to 2 of two searches (round 0 of the target's is its dense arm), and 3 arms at 2 densities."""
    plan = lab.plan(seeds=1)
    kinds = [type(cell.start) for cell in plan.cells.values()]
    assert (kinds.count(Initial), kinds.count(Round), kinds.count(ArmStart)) == (2, 4, 6)
    assert len(plan.rows) == 1 + 3 * 2


def test_every_replicate_has_as_many_cells_and_shares_none(lab: Any) -> None:
    one, three = lab.plan(seeds=1), lab.plan(seeds=3)
    assert len(three.cells) == 3 * len(one.cells)
    assert len(three.rows) == 3 * len(one.rows)


def test_the_dense_training_is_shared_by_all_arms_and_by_the_targets_own_search(lab: Any) -> None:
    plan = lab.plan(seeds=1)
    (dense,) = rows(plan, "dense")
    for row in rows(plan, "own"):
        ticket = plan.cells[row.cell].start.ticket  # type: ignore[union-attr]
        assert ticket is not None
        assert ticket.dense == dense.cell


def test_round_zero_of_a_search_is_the_dense_cell_of_the_source(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer__0=one_arm("winning", targets=["digits@sgd", "low@sgd"]))
    (dense_low,) = rows(plan, "dense", target="low")
    for row in rows(plan, "winning"):
        ticket = plan.cells[row.cell].start.ticket  # type: ignore[union-attr]
        assert ticket is not None
        assert ticket.dense == dense_low.cell


@pytest.mark.parametrize("arm", ["random", "even", "erk"])
def test_an_arm_that_looks_at_the_density_only_is_trained_once_for_all_sources(lab: Any, arm: str) -> None:
    sources = ["low@sgd", "digits@sgd", "digits@adam"]
    plan = lab.plan(seeds=1, transfer__0=one_arm(arm, sources=sources))
    found = rows(plan, arm)
    assert len(found) == 3 * 2
    assert {row.source for row in found} == {"low", "digits"}
    assert len({row.cell for row in found}) == 2
    assert all(plan.cells[row.cell].parents == () for row in found)
    assert {row.search_trainings for row in found} == {0}


@pytest.mark.parametrize("arm", ["winning", "preserved", "layer-permuted", "pruned-finetune"])
def test_an_arm_that_looks_at_the_ticket_is_trained_for_every_source(lab: Any, arm: str) -> None:
    plan = lab.plan(seeds=1, transfer__0=one_arm(arm, sources=["low@sgd", "digits@sgd", "digits@adam"]))
    assert len({row.cell for row in rows(plan, arm)}) == 3 * 2


def test_own_is_winning_where_source_and_target_are_one(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer__0=one_arm("winning", "own", sources=["low@sgd", "digits@sgd"]))
    home = {row.density_asked: row.cell for row in rows(plan, "winning", source="digits")}
    away = {row.density_asked: row.cell for row in rows(plan, "winning", source="low")}
    own = {row.density_asked: row.cell for row in rows(plan, "own")}
    assert own == home
    assert not set(own.values()) & set(away.values())
    assert len(rows(plan, "own")) == 2, "one row, not one for each source"


def test_the_cost_of_a_ticket_is_its_round_and_at_least_the_dense_training(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer__0=one_arm("winning", densities=[1.0, 0.5, 0.125]))
    assert [(row.round, row.search_trainings) for row in rows(plan, "winning")] == [(0, 1), (1, 1), (3, 3)]


def test_all_densities_are_those_of_every_round_but_the_dense_one(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer__0=one_arm("winning", densities="all"))
    assert [(row.density_asked, row.round) for row in rows(plan, "winning")] == [(0.5, 1), (0.25, 2), (0.125, 3)]


def test_density_one_is_round_zero_and_needs_no_round_of_a_search(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer__0=one_arm("winning", "random", densities=[1.0]))
    assert not [cell for cell in plan.cells.values() if isinstance(cell.start, Round)]
    assert [row.round for row in rows(plan, "winning") + rows(plan, "random")] == [0, 0]
    (winning,) = rows(plan, "winning")
    (dense_low,) = (i for i, c in plan.cells.items() if isinstance(c.start, Initial) and c.network.classes == 5)
    assert plan.cells[winning.cell].parents == (dense_low,)


def test_a_density_goes_to_the_nearest_round_on_a_logarithmic_scale(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer__0=one_arm("random", densities=[0.36, 0.34, 0.13, 0.7]))
    assert [row.round for row in rows(plan, "random")] == [1, 2, 3, 1]
    assert plan.densities == {0.7: (0.5,), 0.36: (0.5,), 0.34: (0.25,)}, "0.13 and 0.125 hardly differ"


def test_a_density_that_only_the_dense_network_is_near_is_refused(lab: Any) -> None:
    for arm in ("winning", "snip"):
        with pytest.raises(InputError, match=r"densities: density 0\.9 is nearer to the dense network"):
            lab.plan(seeds=1, transfer__0=one_arm(arm, densities=[0.9]))


def test_parents_stand_before_their_children(lab: Any) -> None:
    plan = lab.plan(transfer__0=one_arm("winning", "own", "pruned-finetune", "layer-permuted", densities="all"))
    seen: set[str] = set()
    for identity, cell in plan.cells.items():
        assert set(cell.parents) <= seen
        seen.add(identity)
    assert all(row.cell in seen for row in plan.rows)


def test_a_long_search_is_planned_too(lab: Any) -> None:
    """Rounds build on one another; a plan of them must not be limited by the depth of Python's stack."""
    search = {"rounds": 1500, "prune": 0.001, "rewind": "1ep"}
    plan = lab.plan(seeds=1, search=search, transfer__0=one_arm("winning", densities=[0.999**1500]))
    assert sum(isinstance(cell.start, Round) for cell in plan.cells.values()) == 1499


def test_names_are_digests_and_labels_tell_what_a_cell_is(lab: Any) -> None:
    plan = lab.plan(seeds=1)
    assert all(re.fullmatch("[0-9a-f]{64}", identity) for identity in plan.cells)
    labels = plan.labels
    assert labels.keys() == plan.cells.keys()
    (dense,) = rows(plan, "dense")
    assert labels[dense.cell] == "dense digits@sgd · lenet-300-100 · seed 0"
    searched = sorted(label.partition(" · ")[0] for label in labels.values() if label.startswith("search "))
    assert searched == [f"search {role}@sgd, round {number}" for role in ("digits", "low") for number in (1, 2)]


# -- what is added when something is added ------------------------------------------------------------------------
def test_another_seed_adds_only_its_own_cells(lab: Any) -> None:
    before, after = lab.plan(seeds=[0, 1]), lab.plan(seeds=[0, 1, 2])
    assert names(before) < names(after)
    assert {cell.seed for identity, cell in after.cells.items() if identity not in before.cells} == {2}


def test_another_arm_adds_only_its_own_cells(lab: Any) -> None:
    before = lab.plan(seeds=1, transfer__0=one_arm("winning", "random"))
    after = lab.plan(seeds=1, transfer__0=one_arm("winning", "random", "preserved"))
    assert names(after) - names(before) == {row.cell for row in rows(after, "preserved")}
    assert names(before) < names(after)


def test_another_density_adds_only_its_own_cells(lab: Any) -> None:
    before = lab.plan(seeds=1, transfer__0=one_arm("winning", densities=[0.125]))
    after = lab.plan(seeds=1, transfer__0=one_arm("winning", densities=[0.125, 0.25]))
    assert names(after) - names(before) == {row.cell for row in rows(after, "winning", density_asked=0.25)}


def test_more_rounds_leave_the_earlier_ones_what_they_were(lab: Any) -> None:
    before, after = lab.plan(seeds=1), lab.plan(seeds=1, search__rounds=5)
    assert names(before) == names(after), "no density of the experiment needs the new rounds"
    deeper = lab.plan(seeds=1, search__rounds=5, transfer__0=one_arm("winning", "own", "random", densities="all"))
    assert names(before) < names(deeper)


def test_another_target_or_source_adds_only_its_own_cells(lab: Any) -> None:
    before = lab.plan(seeds=1)
    more = one_arm("winning", "own", "random", targets=["digits@sgd", "digits@adam"])
    after = lab.plan(seeds=1, transfer__0=more)
    assert names(before) < names(after)
    new = [cell for identity, cell in after.cells.items() if identity not in before.cells]
    assert {cell.recipe.optimizer for cell in new} == {"adam"}


# -- what a name depends on ---------------------------------------------------------------------------------------
def test_names_of_experiment_data_and_recipes_do_not_matter(lab: Any) -> None:
    raw = lab.raw()
    renamed = lab.raw(
        name="other",
        data={"zahlen": raw["data"]["digits"], "wenige": {**raw["data"]["low"], "from": "zahlen"}},
        recipe={"abstieg": raw["recipe"]["sgd"]},
        transfer__0={**raw["transfer"][0], "sources": ["wenige@abstieg"], "targets": ["zahlen@abstieg"]},
    )
    assert list(lab.plan(raw).cells) == list(lab.plan(renamed).cells)


def test_the_order_of_keys_does_not_matter(lab: Any) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    raw = lab.raw()
    assert list(lab.plan(raw).cells) == list(lab.plan(turned(raw)).cells)


@pytest.mark.parametrize(
    ("short", "spelled"),
    [
        ({"recipe__sgd__lr": 1}, {"recipe__sgd__lr": 1.0}),
        ({"recipe__sgd__weight_decay": 0}, {"recipe__sgd__weight_decay": 0.0}),
        ({}, {"recipe__sgd__momentum": 0.9, "recipe__sgd__weight_decay": 1e-4}),
        ({}, {"search__criterion": "magnitude", "search__allocation": "global"}),
        ({"search__rewind": 5}, {"search__rewind": "5it"}),
        ({}, {"data__digits__split": 0, "data__digits__validation": 0.1}),
        ({"model": "lenet-300-100"}, {"model": {"name": "lenet-300-100", "options": {"width": 1}}}),
        ({"model": {"name": "lenet-300-100", "options": {"width": 1.0}}}, {"model": ["lenet-300-100"]}),
        ({}, {"head": "head"}),
    ],
)
def test_the_same_said_in_another_way_is_the_same(lab: Any, short: dict[str, Any], spelled: dict[str, Any]) -> None:
    assert names(lab.plan(seeds=1, **short)) == names(lab.plan(seeds=1, **spelled))


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [9]},
        {"recipe__sgd__lr": 0.2},
        {"recipe__sgd__epochs": 4},
        {"recipe__sgd__batch_size": 33},
        {"recipe__sgd__precision": "bf16"},
        {"recipe__sgd__augment": {"crop": 1}},
        {"model__options__width": 0.06},
        {"model": {"name": "conv-2", "options": {"width": 0.1}}},
        {"data__digits__per_class": 41},
        {"data__digits__split": 1},
        {"data__digits__validation": 0.2},
        {"data__digits__labels": "shuffled"},
        {"search__prune_head": True},
    ],
)
def test_what_changes_a_result_changes_every_name(lab: Any, change: dict[str, Any]) -> None:
    alone = {"data__low__classes": [*range(10)], **change}  # equal classes, so that heads may be pruned
    assert not names(lab.plan(seeds=1, data__low__classes=[*range(10)])) & names(lab.plan(**{"seeds": 1, **alone}))


def test_the_moment_of_rewinding_changes_all_that_looks_at_a_ticket(lab: Any) -> None:
    before, after = lab.plan(seeds=1), lab.plan(seeds=1, search__rewind="2ep")
    assert names(before) & names(after) == {row.cell for row in rows(before, "random")}


@pytest.mark.parametrize(
    "change",
    [{"search__criterion": "random"}, {"search__allocation": "layerwise"}, {"search__method": "fine-tune"}],
)
def test_how_a_search_prunes_changes_what_comes_of_it_but_no_dense_training(lab: Any, change: dict[str, Any]) -> None:
    before, after = lab.plan(seeds=1), lab.plan(seeds=1, **change)
    shared = [before.cells[identity].start for identity in names(before) & names(after)]
    assert all(isinstance(start, Initial) or start.ticket is None for start in shared)
    assert sum(isinstance(start, Initial) for start in shared) == 2


def test_the_code_of_an_imported_model_belongs_to_its_name(lab: Any) -> None:
    plans = {}
    for version, text in {"first": FACTORY, "second": FACTORY + "\n# another version\n"}.items():
        module = f"nets_of_{version}"
        (lab.folder / f"{module}.py").write_text(text)
        plans[version] = lab.plan(seeds=1, model=f"{module}:net")
    first, second = ({cell.network.code for cell in plan.cells.values()} for plan in plans.values())
    assert len(first) == len(second) == 1
    assert None not in first
    assert first != second
    assert not names(plans["first"]) & names(plans["second"])


def test_the_option_of_an_imported_model_spelled_out_is_the_same(lab: Any) -> None:
    (lab.folder / "spelled_nets.py").write_text(FACTORY)
    short = lab.plan(seeds=1, model="spelled_nets:net")
    long = lab.plan(seeds=1, model={"name": "spelled_nets:net", "options": {"hidden": 12}})
    assert names(short) == names(long)


def test_where_the_data_lies_does_not_matter_but_what_is_in_it_does(lab: Any, tmp_path: Path) -> None:
    from PIL import Image

    def folder(name: str, first: int) -> str:
        for part, offset in (("train", 0), ("test", 20)):
            for label in range(2):
                home = tmp_path / name / part / f"class{label}"
                home.mkdir(parents=True)
                for number in range(10):
                    Image.new("L", (4, 4), first + offset + 50 * label + number).save(home / f"{number}.png")
        return str(tmp_path / name)

    def plan(place: str) -> Plan:
        grid = {"targets": ["mine@sgd"], "sources": ["mine@sgd"], "arms": ["winning"], "densities": [0.5]}
        return lab.plan(seeds=1, data={"mine": {"images": place}}, transfer=[grid])  # type: ignore[no-any-return]

    here, there, other = folder("here", 0), folder("there", 0), folder("other", 3)
    assert names(plan(here)) == names(plan(there))
    assert not names(plan(here)) & names(plan(other))
