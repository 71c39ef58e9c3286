"""``prune``: exact counts whatever the names, iteration that only ever removes, and what bad input gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from oneticket.errors import InputError, OneticketError
from oneticket.masks import Masks
from oneticket.pruning import (
    ALLOCATIONS,
    CRITERIA,
    Prunable,
    ScoreContext,
    Scores,
    allocation,
    criterion,
    kept_count,
    prune,
)
from oneticket.pruning.base import check_pair


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 20), nn.BatchNorm1d(20), nn.Linear(20, 4)
    )


def by_magnitude(model: Prunable, density: float, alive: Masks | None = None) -> Masks:
    return prune(model, ScoreContext(), criterion="magnitude", allocation="global", density=density, alive=alive)


@pytest.fixture
def registered() -> Iterator[None]:
    """The registries as they were, after a test that adds to them."""
    before = [dict(registry._entries) for registry in (CRITERIA, ALLOCATIONS)]
    yield
    for registry, entries in zip((CRITERIA, ALLOCATIONS), before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)


def register_criterion(scores: Scores) -> None:
    criterion("given")(lambda _model, _evidence: scores)


# -- counts --------------------------------------------------------------------------------------------------------
@given(st.floats(0, 1), st.integers(0, 10**8))
def test_kept_count_is_the_nearest_integer(density: float, total: int) -> None:
    count = kept_count(density, total)
    assert abs(count - density * total) <= 0.5 + 1e-7
    assert 0 <= count <= total


def test_kept_count_rounds_halves_up() -> None:
    """Python's own round would give 2, 4, 4: halves to even."""
    assert [kept_count(0.5, n) for n in (5, 7, 9)] == [3, 4, 5]


@given(st.floats(0.01, 1.0))
def test_the_density_asked_for_is_met_exactly(density: float) -> None:
    model = Prunable(network())
    assert by_magnitude(model, density).kept == math.floor(density * (54 + 240) + 0.5)


def test_density_one_keeps_everything() -> None:
    assert by_magnitude(Prunable(network()), 1.0) == Masks.full(Prunable(network()).values())


def test_when_all_weights_tie_exactly_as_many_go_as_asked() -> None:
    model = network()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    masks = by_magnitude(Prunable(model), 0.8)
    assert masks.kept == kept_count(0.8, 294)
    assert masks["0.weight"].all(), "ties go by index in the model's order"


def test_negative_weights_are_pruned_by_magnitude() -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 1))
    model[0].weight.data = torch.tensor([[-5.0, 1.0, -2.0, 3.0]])
    assert by_magnitude(Prunable(model), 0.5)["0.weight"].tolist() == [[True, False, False, True]]


def test_norms_biases_and_head_are_never_pruned() -> None:
    model = network()
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
    assert set(by_magnitude(Prunable(model), 0.1)) == {"0.weight", "3.weight"}


def test_layer_collapse_is_visible() -> None:
    model = network()
    nn.init.zeros_(model[0].weight)
    assert by_magnitude(Prunable(model), 0.5).collapsed() == ["0.weight"]


@pytest.mark.parametrize("name", ["global", "layerwise", "erk"])
def test_rounds_only_remove(name: str) -> None:
    """Twelve rounds of 20 %, each on other weights: what is gone stays gone, and each count is exact."""
    alive = None
    for round_ in range(1, 13):
        model = Prunable(network(seed=round_))
        masks = prune(model, ScoreContext(), criterion="magnitude", allocation=name, density=0.8**round_, alive=alive)
        assert masks.kept == math.floor(0.8**round_ * 294 + 0.5)
        assert alive is None or masks <= alive
        alive = masks


def test_pruning_leaves_the_model_alone() -> None:
    model = network()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    by_magnitude(Prunable(model), 0.3)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.usefixtures("registered")
def test_scores_may_come_in_any_order() -> None:
    model = Prunable(network())
    register_criterion(dict(reversed([(name, torch.ones_like(w)) for name, w in model.weights()])))
    masks = prune(model, ScoreContext(), criterion="given", allocation="global", density=54 / 294)
    assert list(masks) == ["0.weight", "3.weight"]
    assert masks["0.weight"].all()


# -- rounds --------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("registered")
def test_rounds_prune_by_equal_factors_and_score_the_pruned_copy() -> None:
    """From 0.8 to 0.1 in three rounds: 0.4, 0.2, 0.1. A copy is scored in which all but the kept weights are zero."""
    model = network()
    alive = by_magnitude(Prunable(model), 0.8)
    seen: list[Masks] = []

    @criterion("watching")
    def watching(view: Prunable, _: ScoreContext) -> Scores:
        assert view.model is not model
        assert (view.names, view.head) == (Prunable(model).names, "5")
        seen.append(Masks({name: weight.detach() != 0 for name, weight in view.weights()}))
        return {name: -weight.detach().abs() for name, weight in view.weights()}

    masks = prune(
        Prunable(model), ScoreContext(), criterion="watching", allocation="global", density=0.1, alive=alive, rounds=3
    )
    assert [m.kept for m in [*seen, masks]] == [kept_count(d, 294) for d in (0.8, 0.4, 0.2, 0.1)]
    assert seen[0] == alive
    assert masks <= seen[2] <= seen[1] <= seen[0]
    assert all((weight != 0).all() for _, weight in Prunable(model).weights())


@pytest.mark.usefixtures("registered")
def test_rounds_are_the_criterions_own_or_one() -> None:
    asked: list[str] = []

    def counting(name: str) -> Callable[[Prunable, ScoreContext], Scores]:
        return lambda view, _: asked.append(name) or view.values()  # type: ignore[func-returns-value]

    criterion("often", rounds=7)(counting("often"))
    criterion("once")(counting("once"))
    for name in ("often", "once"):
        prune(Prunable(network()), ScoreContext(), criterion=name, allocation="layerwise", density=0.5)
    assert (asked.count("often"), asked.count("once")) == (7, 1)
    prune(Prunable(network()), ScoreContext(), criterion="once", allocation="layerwise", density=0.5, rounds=2)
    assert asked.count("once") == 3


@given(st.floats(0.01, 1.0), st.integers(1, 9), st.sampled_from(["global", "layerwise", "erk", "smart", "lamp"]))
def test_any_number_of_rounds_ends_at_the_density(density: float, rounds: int, name: str) -> None:
    model = Prunable(network())
    alive = by_magnitude(model, density**0.5)
    masks = prune(
        model, ScoreContext(), criterion="magnitude", allocation=name, density=density, alive=alive, rounds=rounds
    )
    assert masks.kept == kept_count(density, 294)
    assert masks <= alive


def test_scores_that_do_not_change_make_rounds_one_round() -> None:
    model = Prunable(network())
    once, often = (
        prune(model, ScoreContext(), criterion="magnitude", allocation="global", density=0.3, rounds=r) for r in (1, 12)
    )
    assert once == often


# -- bad input -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("density", [0, -0.1, 1.0001, math.nan, math.inf])
def test_densities_out_of_range(density: float) -> None:
    with pytest.raises(InputError, match=r"density: density .* is out of range; expected 0 < density ≤ 1"):
        by_magnitude(Prunable(network()), density)


def test_a_density_that_leaves_nothing() -> None:
    model = Prunable(network())
    assert by_magnitude(model, 0.5 / 294).kept == 1
    with pytest.raises(InputError, match=r"0.0017 leaves no weight; expected at least 0.0017 for 294 weights"):
        by_magnitude(model, 0.0017)


def test_more_than_is_alive() -> None:
    model = Prunable(network())
    alive = by_magnitude(model, 0.5)
    assert by_magnitude(model, 0.5, alive) == alive
    with pytest.raises(InputError, match=r"needs 148 weights, but only 147 are alive; expected at most 0.5"):
        by_magnitude(model, 148 / 294, alive)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": None}, "alive: there is no mask for '0.weight'"),
        ({"1.weight": (3,)}, r"alive: mask '1.weight' has the shape \(3,\); expected masks of prunable weights only"),
        ({"3.weight": (12, 20)}, r"alive: mask '3.weight' has the shape \(12, 20\); expected the shape \(20, 12\)"),
    ],
)
def test_masks_of_another_network(change: dict[str, tuple[int, ...] | None], message: str) -> None:
    model = Prunable(network())
    shapes = {n: tuple(w.shape) for n, w in model.weights()} | change
    alive = Masks({n: torch.ones(s, dtype=torch.bool) for n, s in shapes.items() if s is not None})
    with pytest.raises(InputError, match=message):
        by_magnitude(model, 0.5, alive)


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_round_at_all(rounds: int) -> None:
    with pytest.raises(InputError, match=f"rounds = {rounds}; expected at least 1"):
        prune(
            Prunable(network()), ScoreContext(), criterion="magnitude", allocation="global", density=0.5, rounds=rounds
        )


def test_a_pair_that_does_not_fit_is_refused_by_name() -> None:
    check_pair("grasp", "global")
    check_pair("magnitude", "lamp")
    with pytest.raises(
        InputError, match=r"'lamp' is not defined for the signed scores of criterion 'grasp'; expected a"
    ):
        check_pair("grasp", "lamp")
    with pytest.raises(InputError, match="unknown allocation 'lmap'"):
        check_pair("magnitude", "lmap")


def test_unknown_names_get_the_nearest() -> None:
    model = Prunable(network())
    with pytest.raises(InputError, match=r"unknown criterion 'magnitud'.*did you mean 'magnitude'"):
        prune(model, ScoreContext(), criterion="magnitud", allocation="global", density=0.5)
    with pytest.raises(InputError, match=r"unknown allocation 'globall'.*did you mean 'global'"):
        prune(model, ScoreContext(), criterion="magnitude", allocation="globall", density=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite(value: float) -> None:
    model = network()
    model[3].weight.data[2, 2] = value
    with pytest.raises(InputError, match=r"criterion 'magnitude': scores of '3.weight' are not all finite"):
        by_magnitude(Prunable(model), 0.5)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": None}, "criterion 'given': '0.weight' has no score"),
        ({"1.weight": (3,)}, "criterion 'given': '1.weight' has a score, but is not a prunable weight"),
        ({"3.weight": (12, 20)}, r"scores of '3.weight' have the shape \(12, 20\); expected \(20, 12\)"),
    ],
)
def test_scores_of_the_wrong_weights(change: dict[str, tuple[int, ...] | None], message: str) -> None:
    model = Prunable(network())
    shapes = {n: tuple(w.shape) for n, w in model.weights()} | change
    register_criterion({n: torch.ones(s) for n, s in shapes.items() if s is not None})
    with pytest.raises(InputError, match=message):
        prune(model, ScoreContext(), criterion="given", allocation="global", density=0.5)


@pytest.mark.usefixtures("registered")
def test_an_allocation_that_breaks_its_promise_is_caught() -> None:
    allocation("one-too-few")(lambda scores, density, alive: ALLOCATIONS["global"](scores, density - 1 / 294, alive))
    allocation("undead")(lambda scores, density, alive: ALLOCATIONS["global"](scores, density, Masks.full(scores)))
    model = Prunable(network())
    with pytest.raises(OneticketError, match="'one-too-few' is faulty: it kept 146 weights instead of 147"):
        prune(model, ScoreContext(), criterion="magnitude", allocation="one-too-few", density=0.5)
    alive = ~by_magnitude(model, 0.5)
    with pytest.raises(OneticketError, match=r"'undead' is faulty: .* 147 of them no longer alive"):
        prune(model, ScoreContext(), criterion="magnitude", allocation="undead", density=0.5, alive=alive)
