"""An arm with a search of its own: the same cells as where the whole experiment searches so, and nothing else moves."""

from __future__ import annotations

from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.planning.plan import Plan
from oneticket.lab.spec.searches import OtherSearch

CHANGES: dict[str, Any] = {
    "rounds": 2,
    "prune": 0.3,
    "criterion": "normalised-magnitude",
    "allocation": "lamp",
    "rewind": 0,
    "method": "lr-rewind",
    "optimizer_state": "rewound",
    "norm_statistics": "fresh",
    "rescale": "layer",
    "norms": "interpolated",
}


def plan_with(lab: Any, search: dict[str, Any], *, densities: tuple[float, ...] = (0.5,)) -> Plan:
    raw = lab.raw(seeds=1, arm__other={"mask": "ticket", "weights": "rewound", "search": search})
    raw["transfer"][0] |= {"arms": ["winning", "other", "random"], "densities": list(densities)}
    plan: Plan = lab.plan(raw)
    return plan


def cells_of(plan: Plan, arm: str) -> list[str]:
    return [row.cell for row in plan.rows if row.arm == arm]


def test_every_key_is_tried() -> None:
    assert set(CHANGES) == set(OtherSearch.__struct_fields__)


@pytest.mark.parametrize("key", CHANGES)
def test_its_ticket_is_that_of_an_experiment_which_searches_so(lab: Any, key: str) -> None:
    mixed = plan_with(lab, {key: CHANGES[key]})
    raw = lab.raw(seeds=1)
    raw["search"][key] = CHANGES[key]
    raw["transfer"][0] |= {"arms": ["winning"], "densities": [0.5]}
    alone = lab.plan(raw)
    assert cells_of(mixed, "other") == cells_of(alone, "winning")
    (cell,) = cells_of(alone, "winning")
    assert {*alone.cells[cell].parents} <= {*mixed.cells}
    # How many rounds there are to come is no part of an earlier one's name.
    assert (cells_of(mixed, "other") != cells_of(mixed, "winning")) is (key != "rounds")


def test_the_other_arms_stay_what_they_are(lab: Any) -> None:
    mixed, without = (plan_with(lab, search, densities=(0.5, 0.125)) for search in ({"criterion": "movement"}, {}))
    for arm in ("winning", "random", "dense"):
        assert cells_of(mixed, arm) == cells_of(without, arm)
    assert cells_of(without, "other") == cells_of(without, "winning")
    told = [
        label for label in mixed.labels.values() if label.startswith("search low@sgd (criterion = movement), round")
    ]
    assert len(told) == 2


def test_one_cut_counts_one_training(lab: Any) -> None:
    plan = plan_with(lab, {"rounds": 1, "prune": 0.875}, densities=(0.125,))
    (other,) = [row for row in plan.rows if row.arm == "other"]
    (winning,) = [row for row in plan.rows if row.arm == "winning"]
    assert (other.round, other.search_trainings) == (1, 1)
    assert (winning.round, winning.search_trainings) == (3, 3)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"criteria": "movement"}, r"arm\.other\.search.*unknown key 'criteria'.*did you mean 'criterion'"),
        ({"criterion": "movment"}, r"arm\.other\.search\.criterion.*did you mean 'movement'"),
        ({"prune": 2.0}, r"arm\.other\.search.*prune = 2"),
        ({"rewind": "9ep"}, r"arm\.other\.search\.rewind.*after the end"),
        ({"rounds": 1}, r"arm\.other\.search.*below that of the last round"),
        ({"prune": 0.9}, r"arm\.other\.search: density 0\.5 is nearer to the dense network than to any round"),
        ({"rescale": "layer", "method": "lr-rewind"}, r"arm\.other\.search\.rescale"),
        ({"prune_head": True}, r"arm\.other\.search.*unknown key 'prune_head'"),
    ],
)
def test_what_makes_no_search_is_refused_at_its_place(lab: Any, search: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_with(lab, search, densities=(0.5, 0.125))


def test_an_arm_that_looks_at_no_ticket_has_no_search(lab: Any) -> None:
    raw = lab.raw(seeds=1, arm__other={"mask": "erk", "weights": "re-drawn", "search": {"criterion": "movement"}})
    with pytest.raises(InputError, match=r"arm\.other.*uses no ticket"):
        lab.plan(raw)
