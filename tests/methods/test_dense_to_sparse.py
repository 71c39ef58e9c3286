"""When masks change, how many weights stay, and that a network is judged as it would end."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.dense_to_sparse import Cutting, budget, checked, interval, moment
from oneticket.training import Recipe, TrainState, train

Small = Callable[..., nn.Sequential]
MakeState = Callable[..., TrainState]
NAMES = ("0.weight", "3.weight")


def flat(model: nn.Module) -> Tensor:
    return torch.cat([model.get_parameter(name).detach().flatten() for name in NAMES])


def flat_masks(state: TrainState) -> Tensor:
    return torch.cat([mask.flatten() for mask in state.masks.values()])


@pytest.fixture
def state(small: Small, state_of: MakeState) -> TrainState:
    return state_of(small())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.integers(1, 500), first=st.integers(0, 499), fraction=st.floats(0.001, 1))
def test_moments_lie_within_the_training(state: TrainState, steps: int, first: int, fraction: float) -> None:
    first = min(first, steps - 1)
    state.times = msgspec.structs.replace(state.times, total=steps, first=first)
    found = moment(state, fraction)
    assert first < found <= steps
    assert abs(found - first - fraction * (steps - first)) <= 0.5 or found == first + 1
    assert moment(state, 1) == steps


@given(every=st.integers(1, 1000), phase=st.integers(1, 10_000))
def test_masks_change_about_ten_times_at_least(every: int, phase: int) -> None:
    found = interval(every, phase)
    assert 1 <= found <= every
    assert phase // found >= min(10, phase)
    assert found == every or found == max(1, phase // 10)


def test_the_budget_is_that_of_all_weights_and_cannot_exceed_the_living(small: Small, state_of: MakeState) -> None:
    some = Masks({"0.weight": torch.arange(12).view(4, 3) < 7, "3.weight": torch.zeros(5, 4, dtype=torch.bool)})
    assert budget(state_of(small()), 0.515625) == 17  # of 32: a half is rounded up
    assert budget(state_of(small(), some), 0.2) == 6
    for density, masks in ((0.25, some), (0.0, None), (0.01, None), (1.01, None), (-0.5, None)):
        with pytest.raises(InputError, match="would keep"):
            budget(state_of(small(), masks), density)
    with pytest.raises(InputError, match="makes masks"):
        budget(state_of(small(), Masks({})), 0.5)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5, float("nan"), float("inf")])
def test_options_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"method 'l1': cut = .*; expected a number above 0, at most 1"):
        checked("l1", "cut", value, most=1)
    assert checked("l1", "cut", 0.75, most=1) == 0.75
    assert checked("l1", "strength", 3.0) == 3.0
    with pytest.raises(InputError, match=r"a number above 0$"):
        checked("l1", "strength", float("inf"))


def test_a_training_is_judged_as_it_would_end(small: Small, state_of: MakeState) -> None:
    """Before the cut with the largest weights alone, which are put back as they were, to the bit."""
    model = small()
    state, before = state_of(model), flat(model)
    callback = Cutting(density=0.4, cut=0.5)
    callback.on_train_start(state)
    largest = sorted(sorted(range(32), key=lambda i: -abs(float(before[i])))[:13])
    with callback.evaluation_weights():
        assert flat(model).nonzero().flatten().tolist() == largest
        assert torch.equal(flat(model)[largest], before[largest])
    assert torch.equal(flat(model), before)
    with pytest.raises(ZeroDivisionError), callback.evaluation_weights():
        raise ZeroDivisionError
    assert torch.equal(flat(model), before), "put back even if judging fails"
    callback.on_train_end(state)
    assert flat_masks(state).nonzero().flatten().tolist() == largest
    after = flat(model)
    with callback.evaluation_weights():
        assert torch.equal(flat(model), after)


@pytest.mark.parametrize(("cut", "dense_steps"), [(0.75, 12), (0.5, 8), (1.0, 16), (0.01, 1)])
def test_the_cut_comes_when_it_was_said_to(
    cut: float, dense_steps: int, small: Small, samples: tuple[Tensor, Tensor]
) -> None:
    kept: list[int] = []

    class Watching(Cutting):
        def before_forward(self, state: TrainState) -> None:
            kept.append(state.masks.kept)

    model = small()
    masks = Masks.full({name: model.get_parameter(name) for name in NAMES})
    train(model, samples, Recipe.sgd(epochs=4, batch_size=2), masks=masks, callbacks=[Watching(0.4, cut)])
    assert kept == [32] * dense_steps + [13] * (16 - dense_steps)


def test_when_all_tie_the_first_of_the_living_stay(small: Small, state_of: MakeState) -> None:
    model = small()
    with torch.no_grad():
        for name in NAMES:
            model.get_parameter(name).zero_()
    late = Masks({"0.weight": torch.arange(12).view(4, 3) >= 5, "3.weight": torch.ones(5, 4, dtype=torch.bool)})
    for alive, first in ((None, 0), (late, 5)):
        state = state_of(model, alive)
        callback = Cutting(0.4, 0.5)
        callback.on_train_start(state)
        callback.on_train_end(state)
        assert flat_masks(state).nonzero().flatten().tolist() == list(range(first, first + 13))


@pytest.mark.parametrize("name", ["gmp", "set", "rigl"])
def test_methods_that_make_masks_of_all_weights_refuse_others_at_once(
    name: str, small: Small, samples: tuple[Tensor, Tensor]
) -> None:
    model, recipe = small(), Recipe.sgd(epochs=4, batch_size=2)
    masks = Masks({n: torch.arange(model.get_parameter(n).numel()).view_as(model.get_parameter(n)) > 0 for n in NAMES})
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(
        InputError, match=rf"method '{name}': the mask of '0\.weight' keeps 11 of 12 .*; expected full masks"
    ):
        train(model, samples, recipe, masks=masks, callbacks=[callback_of(name, MethodContext(0.25, "5", recipe), {})])
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items() if n not in NAMES), "no step was taken"


@pytest.mark.parametrize("name", ["l1", "l0"])
def test_methods_that_cut_stay_inside_the_masks_they_are_given(
    name: str, small: Small, samples: tuple[Tensor, Tensor]
) -> None:
    model, recipe = small(), Recipe.sgd(epochs=4, batch_size=2)
    masks = Masks({n: torch.arange(model.get_parameter(n).numel()).view_as(model.get_parameter(n)) > 2 for n in NAMES})
    callback = callback_of(name, MethodContext(0.25, "5", recipe), {})
    made = train(model, samples, recipe, masks=masks, callbacks=[callback]).masks
    assert made is not None
    assert made.kept == 8
    assert made <= masks
