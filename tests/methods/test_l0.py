"""L0: gates, penalty and every gradient against the definition; the cut by log α."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.l0 import HardConcrete, final_gates, largest_by_both, open_probability, sampled_gates
from oneticket.training import Recipe, TrainState, train

Small = Callable[..., nn.Sequential]
MakeState = Callable[..., TrainState]


def at(state: TrainState, step: int) -> TrainState:
    state.step = step
    return state


NAMES = ("0.weight", "3.weight")
ALPHAS = torch.tensor([-6.0, -2.4, -1.0, -0.1, 0.0, 0.3, 1.7, 2.4, 5.0], dtype=torch.float64)


def logistic(x: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def gate(log_alpha: np.ndarray, u: np.ndarray) -> np.ndarray:
    s = logistic((np.log(u) - np.log(1 - u) + log_alpha) / (2 / 3))
    return np.minimum(1, np.maximum(0, s * 1.2 - 0.1))


def make(small: Small, state_of: MakeState, **options: float) -> tuple[nn.Sequential, TrainState, HardConcrete]:
    model = small()
    state = state_of(model)
    callback = callback_of("l0", MethodContext(0.25, "5", Recipe.sgd(epochs=4)), {"cut": 0.75, **options})
    assert isinstance(callback, HardConcrete)
    callback.on_train_start(state)
    return model, state, callback


def flat(model: nn.Module, gradient: bool = False) -> Tensor:
    weights = [model.get_parameter(name) for name in NAMES]
    return torch.cat([(w.grad if gradient else w.detach()).flatten() for w in weights])  # type: ignore[union-attr]


# -- the formulas --------------------------------------------------------------------------------------------------
@given(st.floats(-8, 8), st.floats(0.001, 0.999))
def test_gates_are_those_of_the_paper(log_alpha: float, u: float) -> None:
    alpha, noise = (torch.tensor([x], dtype=torch.float64) for x in (log_alpha, u))
    np.testing.assert_allclose(sampled_gates(alpha, noise), [gate(np.array(log_alpha), np.array(u))], atol=1e-12)
    ends = np.clip(logistic(log_alpha) * 1.2 - 0.1, 0, 1)
    np.testing.assert_allclose(final_gates(alpha), [ends], atol=1e-12)


def test_the_penalty_is_the_probability_of_an_open_gate() -> None:
    """Over a fine grid of u, z ≠ 0 as often as sigmoid(log α − β log(−γ/ζ)) says."""
    u = (np.arange(200_000) + 0.5) / 200_000
    for log_alpha, probability in zip(ALPHAS.tolist(), open_probability(ALPHAS).tolist(), strict=True):
        assert np.mean(gate(np.array(log_alpha), u) > 0) == pytest.approx(probability, abs=1e-5)


def test_noise_at_the_ends_gives_finite_gates_and_gradients() -> None:
    alpha = torch.tensor([0.5, 0.5], requires_grad=True)
    gates = sampled_gates(alpha, torch.tensor([0.0, 1.0]))
    assert gates.tolist() == [0.0, 1.0]
    gates.sum().backward()
    assert alpha.grad is not None
    assert torch.isfinite(alpha.grad).all()


@pytest.mark.parametrize(
    "function", [open_probability, final_gates, lambda a: sampled_gates(a, torch.full_like(a, 0.4))]
)
def test_gradients_by_finite_differences(function: Callable[[Tensor], Tensor]) -> None:
    alpha = ALPHAS.clone().requires_grad_()
    function(alpha).sum().backward()
    step = 1e-6
    slopes = (function(ALPHAS + step) - function(ALPHAS - step)) / (2 * step)
    np.testing.assert_allclose(alpha.grad, slopes, atol=1e-8)
    assert (alpha.grad != 0).any()


def test_the_gradient_of_the_expected_gate(small: Small) -> None:
    """The mean over u of the gates' gradients is the gradient of the mean gate, by finite differences."""
    u = torch.from_numpy((np.arange(100_000) + 0.5) / 100_000)
    for value in (-1.0, 0.3):
        alpha = torch.full_like(u, value).requires_grad_()
        sampled_gates(alpha, u).mean().backward()
        step = 1e-4
        up, down = (gate(np.array(value + side), u.numpy()).mean() for side in (step, -step))
        assert alpha.grad is not None
        assert float(alpha.grad.sum()) == pytest.approx((up - down) / (2 * step), rel=1e-4)


# -- a step --------------------------------------------------------------------------------------------------------
def test_a_step_has_the_gradients_of_the_gated_loss(
    small: Small, state_of: MakeState, samples: tuple[Tensor, Tensor]
) -> None:
    """Objective: loss(W ∘ z(log α, u)) + λ/n Σ P(z ≠ 0), u that of the step; differences in every log α and every W."""
    model, state, callback = make(small, state_of, strength=2.0, keep=0.6)
    weights, step = flat(model), 7
    noise = torch.rand(32, generator=state.generator("gate-noise", step)).double()

    callback.before_forward(at(state, step))
    alpha = callback.log_alpha.detach().clone()
    expected = weights * torch.from_numpy(gate(alpha.numpy(), noise.numpy()))
    np.testing.assert_allclose(flat(model), expected, atol=1e-9)
    penalty = callback.penalty(state)
    assert penalty is not None
    (F.cross_entropy(model(samples[0]), samples[1]) + penalty).backward()
    callback.after_backward(at(state, step))
    assert torch.equal(flat(model), weights), "put back to the bit"

    other = small()

    def objective(w: Tensor, a: Tensor) -> float:
        gated = (w * sampled_gates(a, noise)).split([12, 20])
        with torch.no_grad():
            for name, values in zip(NAMES, gated, strict=True):
                parameter = other.get_parameter(name)
                parameter.copy_(values.view_as(parameter))
            loss = float(F.cross_entropy(other(samples[0]), samples[1]))
        return loss + 2.0 / 80 * float(logistic(a.numpy() - 2 / 3 * math.log(0.1 / 1.1)).sum())

    def slope(of: int, index: int, h: float = 1e-5) -> float:
        sides = []
        for sign in (1, -1):
            point = [weights.clone(), alpha.clone()]
            point[of][index] += sign * h
            sides.append(objective(*point))
        return (sides[0] - sides[1]) / (2 * h)

    np.testing.assert_allclose(flat(model, gradient=True), [slope(0, i) for i in range(32)], atol=1e-8)
    np.testing.assert_allclose(callback.log_alpha.grad, [slope(1, i) for i in range(32)], atol=1e-8)
    assert (expected == 0).any(), "closed gates are among the cases"


def test_noise_differs_from_step_to_step_and_gradients_do_not_add_up(
    small: Small, state_of: MakeState, samples: tuple[Tensor, Tensor]
) -> None:
    model, state, callback = make(small, state_of)
    seen, gradients = [], []
    for step in (0, 1, 0):
        callback.before_forward(at(state, step))
        seen.append(flat(model))
        model.zero_grad()
        F.cross_entropy(model.eval()(samples[0]), samples[1]).backward()
        callback.after_backward(at(state, step))
        gradients.append(callback.log_alpha.grad)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[2])


def test_gates_have_an_adam_of_their_own(small: Small, state_of: MakeState, samples: tuple[Tensor, Tensor]) -> None:
    """Its first step is the rate times −g/(|g| + 1e-8)."""
    model, state, callback = make(small, state_of, gate_lr=0.02)
    before = callback.log_alpha.detach().clone()
    assert abs(float(before.mean())) < 0.01
    assert 0.005 < float(before.std()) < 0.02
    callback.before_forward(at(state, 0))
    penalty = callback.penalty(state)
    assert penalty is not None
    (F.cross_entropy(model(samples[0]), samples[1]) + penalty).backward()
    callback.after_backward(at(state, 0))
    gradient = callback.log_alpha.grad
    assert gradient is not None
    state.optimizer.step()
    assert torch.equal(callback.log_alpha.detach(), before), "no parameter of the network's optimiser"
    callback.after_step(at(state, 0))
    step = 0.02 * gradient / (gradient.abs() + 1e-8)
    np.testing.assert_allclose(callback.log_alpha.detach(), before - step, atol=1e-9)


# -- judging and cutting -------------------------------------------------------------------------------------------
def test_judged_and_cut_with_the_deterministic_gates(small: Small, state_of: MakeState) -> None:
    model, state, callback = make(small, state_of)
    weights = flat(model)
    with torch.no_grad():
        callback.log_alpha.copy_(torch.linspace(-4, 4, 32, dtype=torch.float64)[torch.randperm(32)])
    alpha = callback.log_alpha.detach().clone()
    stays = alpha >= alpha.sort(descending=True).values[7]
    gates = np.clip(logistic(alpha.numpy()) * 1.2 - 0.1, 0, 1)
    expected = torch.from_numpy(np.where(stays, weights.numpy() * gates, 0))
    with callback.evaluation_weights():
        np.testing.assert_allclose(flat(model), expected, atol=1e-12)
    assert torch.equal(flat(model), weights)
    callback.on_train_end(state)
    np.testing.assert_allclose(flat(model), expected, atol=1e-12)
    kept = torch.cat([mask.flatten() for mask in state.masks.values()])
    assert torch.equal(kept, stays)
    assert callback.penalty(state) is None
    assert callback.state_dict() == {"is_cut": True}
    callback.before_forward(at(state, 31))
    callback.after_backward(at(state, 31))
    np.testing.assert_allclose(flat(model), expected, atol=1e-12)


@given(st.data())
def test_ties_go_to_the_larger_weight_then_to_the_earlier(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    few = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    first, second = (torch.tensor(data.draw(few), dtype=torch.float64) for _ in range(2))
    count = data.draw(st.integers(1, n))
    order = np.lexsort((np.arange(n), -second.numpy(), -first.numpy()))
    expected = np.zeros(n, dtype=bool)
    expected[order[:count]] = True
    np.testing.assert_array_equal(largest_by_both(first, second, count), expected)


def test_only_living_weights_are_kept(small: Small, state_of: MakeState) -> None:
    model = small()
    alive = Masks({"0.weight": torch.zeros(4, 3, dtype=torch.bool), "3.weight": torch.ones(5, 4, dtype=torch.bool)})
    state = state_of(model, alive)
    callback = callback_of("l0", MethodContext(0.5, "5", Recipe.sgd(epochs=4)), {})
    callback.on_train_start(state)
    callback.on_train_end(state)
    assert state.masks.kept == 16
    assert state.masks <= alive


def test_a_strong_penalty_closes_gates_and_a_weak_one_does_not(small: Small, samples: tuple[Tensor, Tensor]) -> None:
    probabilities = []
    for strength in (50.0, 1e-6):
        recipe, model = Recipe.adam(epochs=30, batch_size=4, lr=0.01), small(dtype=torch.float32)
        callback = callback_of(
            "l0", MethodContext(0.25, "5", recipe), {"strength": strength, "gate_lr": 0.1, "cut": 0.75}
        )
        assert isinstance(callback, HardConcrete)
        full = Masks.full({name: model.get_parameter(name) for name in NAMES})
        data = samples[0].float(), samples[1]
        train(model, data, recipe, masks=full, callbacks=[callback])
        probabilities.append(float(open_probability(callback.log_alpha.detach()).mean()))
    assert probabilities[0] < 0.1 < 0.7 < probabilities[1]


def test_options_are_checked() -> None:
    context = MethodContext(0.5, "5", Recipe.sgd(epochs=1))
    for options in ({"strength": 0.0}, {"gate_lr": -1.0}, {"keep": 1.0}, {"keep": 0.0}, {"cut": 2.0}):
        with pytest.raises(InputError, match="method 'l0'"):
            callback_of("l0", context, options)
