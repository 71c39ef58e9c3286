"""Budgets: equal steps of their own, equal steps with the search, equal FLOPs; the definitions, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneticket.errors import InputError
from oneticket.lab.cells.description import ArmStart
from oneticket.lab.planning.budget import MEAN_DENSITY, prolonged
from oneticket.lab.planning.plan import Plan
from oneticket.lab.planning.rows import Row
from oneticket.lab.spec.arms import ARMS
from oneticket.methods import METHODS, method_options
from oneticket.training import Recipe, Start
from oneticket.training.schedule import Constant, StepDecay
from oneticket.training.start import Timetable

PER_EPOCH, LOW = 12, 6  # steps in an epoch of digits and of low: 360 and 180 images in batches of 32
EPOCHS, N = 3, 2
RECIPE = {"optimizer": "sgd", "lr": 0.1, "epochs": EPOCHS, "batch_size": 32, "warmup": "5it",
          "schedule": {"kind": "step", "at": ["2ep"]}}  # fmt: skip


def planned(lab: Any, budget: str | None, *arms: str, density: float = 0.25, **changes: Any) -> Plan:
    """The plan for one seed, tickets of ``low`` on ``digits``; a density of 0.25 is that of round 2."""
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": list(arms), "densities": [density]}
    if budget is not None:
        grid["budget"] = budget
    plan: Plan = lab.plan(lab.raw(**{"seeds": 2, "recipe__sgd": RECIPE, "transfer": [grid]} | changes))
    return plan


def row(plan: Plan, arm: str) -> Row:
    return next(row for row in plan.rows if row.arm == arm)


def recipe(plan: Plan, arm: str) -> Recipe:
    return plan.cells[row(plan, arm).cell].recipe


def begins(plan: Plan, arm: str) -> str:
    start = plan.cells[row(plan, arm).cell].start
    assert isinstance(start, ArmStart)
    return start.rewind


# -- recipe and equal-k -------------------------------------------------------------------------------------------
LEVEL = [arm for arm in ARMS if ARMS[arm].length == "recipe"]
NONE = [arm for arm in ARMS if ARMS[arm].takes_no_step]


def test_a_file_that_says_nothing_has_the_budget_of_the_recipe(lab: Any) -> None:
    assert planned(lab, None, *ARMS).rows == planned(lab, "recipe", *ARMS).rows


def test_every_arm_has_the_same_steps_of_its_own_where_those_before_k_count(lab: Any) -> None:
    """For each arm that is registered, today or later; without the budget the same look finds those that have more."""
    total = EPOCHS * PER_EPOCH
    found = {row.arm: row.own_steps for row in planned(lab, "equal-k", *LEVEL).rows}
    assert found == dict.fromkeys(LEVEL, total) | dict.fromkeys(NONE, 0)
    more = {row.arm: row.own_steps for row in planned(lab, "recipe", *ARMS).rows if row.own_steps != total}
    own = {"own", "source-mask"}  # whose W_k is the target's
    assert more == {
        **{arm: total + LOW for arm in ARMS if ARMS[arm].weights == "rewound" and arm not in own},
        **dict.fromkeys((*own, "random-from-longer"), total + PER_EPOCH),
        **dict.fromkeys(NONE, 0),
    }


def test_only_the_cells_of_rewound_weights_change_their_names(lab: Any) -> None:
    usual, level = planned(lab, "recipe", *LEVEL), planned(lab, "equal-k", *LEVEL)
    for arm in LEVEL:
        same = row(usual, arm).cell == row(level, arm).cell
        assert same == (ARMS[arm].weights != "rewound"), arm
        if not same:
            assert recipe(level, arm) == recipe(usual, arm)
            assert begins(level, arm) == ("12it" if arm in ("own", "source-mask") else "6it")
    zero = [planned(lab, budget, "winning", search__rewind=0) for budget in ("recipe", "equal-k")]
    assert row(zero[0], "winning").cell == row(zero[1], "winning").cell, "W_0 has no steps behind it"


def test_it_is_trained_from_k_on(lab: Any) -> None:
    plan, store = planned(lab, "equal-k", "dense-from-k", seeds=1), lab.store()
    assert lab.run(plan, store).complete
    record = store.read(row(plan, "dense-from-k").cell)
    assert record["cost"]["steps"] == EPOCHS * PER_EPOCH - LOW
    assert record["outcome"]["density"] == 1.0
    assert record["description"]["start"]["rewind"] == "6it"


def test_random_from_longer_is_random_by_a_recipe_with_the_drops_later(lab: Any) -> None:
    """The cell of a recipe that is written with k more: an epoch, before the drop."""
    later = RECIPE | {"epochs": EPOCHS + 1, "schedule": {"kind": "step", "at": ["3ep"]}}
    by_hand = planned(lab, "recipe", "random", recipe__sgd=later)
    assert row(planned(lab, "recipe", "random-from-longer"), "random-from-longer").cell == row(by_hand, "random").cell


# -- equal-search -------------------------------------------------------------------------------------------------
def test_what_went_before_is_added_to_the_arms_that_lack_it(lab: Any) -> None:
    """T · (1 + n − c): n = 2 trainings for the ticket of round 2, c for what the arm itself rests on."""
    arms = ("winning", "random", "gmp", "dense-finetune", "rotation", "other-seed", "pruned-lr-rewind")
    plan = planned(lab, "equal-search", *arms)
    factor = {"dense": 3, "winning": 1, "random": 3, "gmp": 3, "dense-finetune": 2, "rotation": 2, "other-seed": 1,
              "pruned-lr-rewind": 1}  # fmt: skip
    assert {arm: recipe(plan, arm).epochs / EPOCHS for arm in factor} == factor
    assert {row.arm: 1 + N - row.search_trainings for row in plan.rows if row.arm != "other-seed"} == {
        arm: value for arm, value in factor.items() if arm != "other-seed"
    }
    long = recipe(plan, "random")
    assert (long.warmup, long.schedule) == ("15it", StepDecay(at=(f"{6 * PER_EPOCH}it",)))
    assert recipe(plan, "winning").schedule == StepDecay(at=("2ep",))
    assert begins(plan, "winning") == ""
    assert row(plan, "random").own_steps == 3 * EPOCHS * PER_EPOCH


def test_dense_networks_get_what_the_deepest_round_of_their_target_took(lab: Any) -> None:
    grids = [
        {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": ["random"], "densities": densities,
         "budget": "equal-search"}
        for densities in ([0.5, 0.25], [0.125])
    ]  # fmt: skip
    plan = lab.plan(lab.raw(seeds=1, transfer=grids))
    assert {(r.arm, r.density_asked, r.own_steps // (EPOCHS * PER_EPOCH)) for r in plan.rows} == {
        ("dense", 1.0, 4), ("random", 0.5, 2), ("random", 0.25, 3), ("random", 0.125, 4)
    }  # fmt: skip


def gradual(density: float, options: dict[str, Any], steps: int) -> float:
    """The mean density of gmp, step by step: pruned after every so many steps, s = s_f (1 − (1 − t/T)³)."""
    now, seen, phase = 1.0, [], round(options["stop"] * steps)
    every = max(1, min(options["every"], phase // 10))
    for step in range(steps):
        seen.append(now)
        done = step + 1
        if done <= phase and done % every == 0:
            now = 1 - (1 - density) * (1 - (1 - done / phase) ** 3)
        if done == phase:
            now = density
    return sum(seen) / steps


# -- equal-flops --------------------------------------------------------------------------------------------------
def test_flops_of_search_and_training_are_those_of_the_ticket(lab: Any) -> None:
    """By hand: multiply-adds of 64 → 15 → 5 → 10, the head dense, with 1 → 0.5 → 0.25 of the rest left."""
    plan = planned(lab, "equal-flops", "winning", "random", "gmp", "pruned-lr-rewind")

    def cost(density: float) -> float:
        return 5 * 10 + density * (64 * 15 + 15 * 5)

    search = EPOCHS * cost(1.0) + (EPOCHS - 1) * cost(0.5)  # a round begins after the first epoch
    allowed = search + EPOCHS * cost(0.25)
    options = method_options("gmp", {})
    assert {arm: recipe(plan, arm).epochs for arm in ("winning", "pruned-lr-rewind", "random", "gmp", "dense")} == {
        "winning": EPOCHS,
        "pruned-lr-rewind": EPOCHS,
        "random": round(allowed / cost(0.25)),
        "gmp": min(range(1, 99), key=lambda e: abs(allowed - e * cost(gradual(0.25, options, e * PER_EPOCH)))),
        "dense": round(allowed / cost(1.0)),
    }
    assert recipe(plan, "random").epochs > 3 * EPOCHS, "sparse epochs are cheaper than those of the search"
    plan = planned(lab, "equal-flops", "autoencoder", "rotation", density=0.512, search__prune=0.2)
    left = (EPOCHS - 1) * (cost(0.8) + cost(0.64)) + EPOCHS * cost(0.512)
    assert recipe(plan, "autoencoder").epochs == round(left / cost(1.0)) > EPOCHS
    assert recipe(plan, "rotation").epochs == EPOCHS, "four times the samples: more than was allowed for"


def test_the_density_over_time_is_known_of_every_method_that_makes_masks() -> None:
    for name in [entry.name for entry in METHODS.entries() if entry.facts.makes == "masks"]:
        options = method_options(name, {})
        assert 0.25 <= MEAN_DENSITY[name](0.25, options, 100) <= 1
        assert MEAN_DENSITY[name](1.0, options, 100) == pytest.approx(1.0)
    assert MEAN_DENSITY["l1"](0.25, {"cut": 0.5}, 100) == 0.25 + 0.75 * 0.5
    for every, stop, steps in ((100, 0.75, 1440), (7, 0.5, 100), (100, 1.0, 30), (1, 0.75, 4)):
        known = {"every": every, "stop": stop}
        assert MEAN_DENSITY["gmp"](0.05, known, steps) == pytest.approx(gradual(0.05, known, steps), rel=1e-12)


# -- other lengths ------------------------------------------------------------------------------------------------
SCHEDULES = st.one_of(
    st.just(Constant()),
    st.lists(st.integers(1, 40), min_size=1, max_size=3).map(
        lambda at: StepDecay(at=tuple(f"{moment // 8}ep{moment % 8}it" for moment in sorted(at)))
    ),
)


def rates(recipe: Recipe, per_epoch: int) -> list[float]:
    table = Timetable.of(recipe, per_epoch, Start(), ())
    return [table.lr(step) for step in range(table.total)]


@settings(max_examples=30)
@given(schedule=SCHEDULES, more=st.integers(0, 3))
def test_prolonged_the_drops_keep_their_distance_from_the_end(schedule: Constant | StepDecay, more: int) -> None:
    usual = Recipe.sgd(epochs=6, schedule=schedule)
    assert rates(prolonged(usual, 6 + more), 8)[8 * more :] == rates(usual, 8)


# -- what is refused ----------------------------------------------------------------------------------------------
def test_what_has_no_meaning_is_refused(lab: Any) -> None:
    with pytest.raises(InputError, match=r"transfer\[0\]\.budget.*equal_k.*did you mean 'equal-k'"):
        planned(lab, "equal_k", "winning")
    with pytest.raises(InputError, match=r"transfer\[0\]\.arms.*k steps more.*'equal-k' does not allow"):
        planned(lab, "equal-k", "random-from-longer")
    with pytest.raises(InputError, match=r"rewind = 7it is not a whole number of the epochs of digits@sgd"):
        planned(lab, "recipe", "random-from-longer", search__rewind="7it")
    grid = {"sources": ["digits@sgd"], "targets": ["low@sgd"], "arms": ["winning"], "densities": [0.5]}
    with pytest.raises(InputError, match=r"W_k of digits@sgd has 36 steps behind it, and low@sgd only 18"):
        planned(lab, None, search__rewind="3ep", search__rounds=1, transfer=[grid | {"budget": "equal-k"}])
    grids = [
        {"targets": ["digits@sgd"], "arms": ["own"], "budget": budget, "densities": [0.5]}
        for budget in ("recipe", "equal-k")
    ]
    with pytest.raises(InputError, match=r"transfer\[1\]\.budget.*on digits@sgd, where transfer\[0\] has 'recipe'"):
        lab.plan(lab.raw(transfer=grids))
    with pytest.raises(InputError, match="begins at k"):
        lab.plan(arm__more={"mask": "ticket", "weights": "trained", "method": "lr-rewind", "length": "k-more"})
