"""Rates: a cell has another name than before exactly where it is trained at other learning rates than before."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from oneticket.errors import InputError
from oneticket.lab.cells.description import ArmStart, CellStart, Initial, PretrainingStart, Round, TicketRef
from oneticket.lab.cells.rates import rates_of
from oneticket.methods import METHODS, PRETRAININGS
from oneticket.search import Search
from oneticket.training import Constant, Cosine, Recipe, Schedule, StepDecay

PER_EPOCH = 15
SCHEDULES = (Constant(), StepDecay(at=("6ep", "7ep")), StepDecay(at=()), Cosine(), Cosine(final=0.1))
RECIPES = [Recipe.sgd(epochs=8, schedule=each, warmup=warmup) for each in SCHEDULES for warmup in ("0it", "1ep")]


def arm(method: str) -> ArmStart:
    return ArmStart(
        mask="dense", allocation="", weights="initial", norms="as-drawn", rescale="none", method=method, options={},
        density=1.0, ticket=None, values=None, pretrained=None, rewind="",
    )  # fmt: skip


def search_round(method: Any) -> Round:
    search = Search(method=method)
    return Round(ticket=TicketRef(dense="d", previous="d", round=1, density=0.8, search=search))


def all_rates(recipe: Recipe) -> list[float]:
    return [recipe.rates(PER_EPOCH)(step) for step in range(recipe.epochs * PER_EPOCH)]


def test_every_kind_of_schedule_is_here() -> None:
    assert {type(each) for each in SCHEDULES} == set(get_args(Schedule))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.schedule}, {recipe.warmup}")
def test_the_description_changes_with_the_rates(recipe: Recipe) -> None:
    before = all_rates(recipe)[-1]
    said = "last-tenth" if recipe.fine_tuning_rate(PER_EPOCH) != before else msgspec.UNSET
    assert {rates_of(start, recipe) for start in (arm("fine-tune"), search_round("fine-tune"))} == {said}

    parts = [all_rates(recipe.scaled(3, steps_per_epoch=PER_EPOCH))]
    parts.append(all_rates(msgspec.structs.replace(recipe, epochs=3)))  # as each part was trained before
    said = "each-part" if parts[0] != parts[1] else msgspec.UNSET
    assert rates_of(PretrainingStart(task="layer-wise"), recipe) == said


def test_nothing_is_said_where_the_rates_are_those_of_the_recipe() -> None:
    starts: list[CellStart] = [Initial(), search_round("rewind"), search_round("lr-rewind")]
    starts += [arm(name) for name in METHODS if METHODS.entry(name).facts.lr != "last"]
    starts += [PretrainingStart(task=name) for name in PRETRAININGS if name != "layer-wise"]
    assert {rates_of(start, recipe) for start in starts for recipe in RECIPES} == {msgspec.UNSET}
    short = Recipe.sgd(epochs=1, schedule=StepDecay(at=("10it",)))
    assert rates_of(PretrainingStart(task="layer-wise"), short) is msgspec.UNSET, "each layer has the whole recipe"


def test_a_plan_says_it_of_the_cells_and_of_no_others(lab: Any) -> None:
    grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": ["winning", "dense-finetune", "layer-wise"],
            "densities": [0.25]}  # fmt: skip
    plan = lab.plan(seeds=1, recipe__sgd__schedule={"kind": "cosine"}, search__method="fine-tune", transfer=[grid])
    said = {plan.labels[name].split(" · ")[0]: cell.rates for name, cell in plan.cells.items() if cell.rates}
    assert said == {"dense-finetune digits@sgd, 100 % of the weights": "last-tenth",
                    "search low@sgd, round 1": "last-tenth"}  # fmt: skip
    steps = {"kind": "step", "at": ["2ep"], "factor": 0.1}
    plan = lab.plan(seeds=1, recipe__sgd__schedule=steps, search__method="fine-tune", transfer=[grid])
    assert [type(cell.start) for cell in plan.cells.values() if cell.rates] == [PretrainingStart]


@pytest.mark.parametrize(
    ("method", "arms", "place"),
    [("fine-tune", ["winning"], "search.method"), ("rewind", ["dense-finetune"], "transfer[0].arms: dense-finetune")],
)
def test_a_plan_refuses_to_fine_tune_where_nothing_would_be_learned(
    lab: Any, method: str, arms: list[str], place: str
) -> None:
    def plan(factor: float) -> Any:
        grid = {"sources": ["low@sgd"], "targets": ["digits@sgd"], "arms": arms, "densities": [0.25]}
        steps = {"kind": "step", "at": ["1ep", "2ep"], "factor": factor}
        return lab.plan(seeds=1, recipe__sgd__schedule=steps, search__method=method, transfer=[grid])

    assert plan(0.01).cells
    with pytest.raises(InputError) as refusal:
        plan(0.001)
    assert str(refusal.value) == (
        f"{place}: fine-tuning would have the learning rate 1e-07, where the schedule ends: 1e-06 of lr = 0.1; "
        "expected a schedule that ends at 1e-05 of lr or above, with fewer drops or smaller ones, in recipe.sgd"
    )
