"""Concrete Ticket Search against its definition in float64: gates, divergence, GradBalance, Adam, the exact count."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.cts import ConcreteSearch
from oneticket.prunable import Prunable
from oneticket.randomness import Streams
from oneticket.training import Recipe, train

DENSITY, STEPS, WEIGHTS = 0.3, 9, 117


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 6, generator=generator, dtype=torch.float64), torch.arange(20) % 3


def searched(
    model: nn.Module, density: float = DENSITY, steps: int = STEPS, **options: Any
) -> tuple[Masks, ConcreteSearch, list[float]]:
    """One batch of all samples a step, so that their order does not matter."""
    recipe = Recipe.sgd(epochs=steps, batch_size=20, lr=1.0)
    callback = callback_of("cts", MethodContext(density, "4", recipe), options)
    assert isinstance(callback, ConcreteSearch)
    full = Masks.full(dict(Prunable(model, head="4").weights()))
    training = train(model, data(), recipe, masks=full, callbacks=[callback])
    assert training.masks is not None
    return training.masks, callback, [record.train_loss for record in training.history]


def softmax(logits: Tensor) -> Tensor:
    return torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)


class Reference:
    """The search, from its definition: all α in one vector, every formula written out."""

    def __init__(self, budget: float) -> None:
        self.first, self.second, self.head = (layer for layer in network() if isinstance(layer, nn.Linear))
        self.w = torch.cat([self.first.weight.detach().flatten(), self.second.weight.detach().flatten()])
        self.alpha = torch.full((WEIGHTS,), math.log(DENSITY / (1 - DENSITY)), dtype=torch.float64)
        self.aim, self.balance, self.losses = budget * DENSITY * WEIGHTS, 0.0, [0.0][:0]

    def answers(self, w: Tensor) -> Tensor:
        hidden = torch.tanh(data()[0] @ w[:54].view(9, 6).T + self.first.bias)
        hidden = torch.tanh(hidden @ w[54:].view(7, 9).T + self.second.bias)
        return softmax(hidden @ self.head.weight.T + self.head.bias)

    def run(self) -> None:
        m, v = torch.zeros_like(self.alpha), torch.zeros_like(self.alpha)
        for step in range(STEPS):
            stream = Streams(0).generator("mask", "cts", step)
            u = torch.cat([torch.rand(shape, generator=stream).flatten() for shape in ((9, 6), (7, 9))]).double()
            alpha = self.alpha.clone().requires_grad_()
            gates = 1 / (1 + torch.exp(-(torch.log(u / (1 - u)) / (2 / 3) + alpha)))
            sparse, dense = self.answers(self.w * gates), self.answers(self.w).detach()
            loss = 100 * (sparse * (sparse.log() - dense.log())).sum(1).mean()
            (slope,) = torch.autograd.grad(loss, alpha)
            chances = 1 / (1 + torch.exp(-self.alpha))
            of_budget = 100 / self.aim * chances * (1 - chances)
            over = 100 * (chances.sum() / self.aim - 1) > 0
            target = float(slope.square().sum().sqrt() / of_budget.square().sum().sqrt()) if over else 0.0
            self.balance = 0.99 * self.balance + 0.01 * target
            g = slope + self.balance * of_budget
            m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, step + 1
            rate = 0.1 if step / STEPS < 0.88 else 0.01
            self.alpha = self.alpha - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            self.losses.append(float(loss.detach()))


@pytest.mark.parametrize("budget", [1.1, 0.4])
def test_it_is_the_search_of_its_definition(budget: float) -> None:
    """With a budget of 0.4 ρN, S is above zero from the first step on, so that λ leaves zero."""
    expected, model = Reference(budget), network()
    expected.run()
    masks, callback, losses = searched(model, budget=budget)
    found = torch.cat([score.flatten() for score in callback.scores])
    torch.testing.assert_close(found, expected.alpha, rtol=1e-6, atol=1e-7)
    assert callback.balance == pytest.approx(expected.balance, rel=1e-6)
    assert (callback.balance > 0) == (budget < 1)
    assert losses == pytest.approx(expected.losses, rel=1e-6)
    order = sorted(range(WEIGHTS), key=lambda i: (-float(found[i]), i))
    kept = torch.zeros(WEIGHTS, dtype=torch.bool)
    kept[order[: math.floor(DENSITY * WEIGHTS + 0.5)]] = True
    assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), kept)
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name), network().get_parameter(name) * mask)


@settings(max_examples=12, deadline=None)
@given(density=st.floats(0.02, 1.0), steps=st.integers(1, 3))
def test_it_keeps_exactly_the_number_of_its_density(density: float, steps: int) -> None:
    assert searched(network(), density, steps)[0].kept == math.floor(density * WEIGHTS + 0.5)


def test_the_network_that_is_left_answers_more_like_the_whole_one() -> None:
    def divergence(model: nn.Module) -> float:
        whole, left = softmax(network()(data()[0])), softmax(model(data()[0]))
        return float((left * (left.log() - whole.log())).sum(1).mean().detach())

    found, by_chance = network(), network()
    searched(found, steps=150)
    searched(by_chance, steps=150, score_lr=1e-12)
    assert divergence(found) < 0.5 * divergence(by_chance)


def test_running_statistics_stay_and_noise_of_dropout_is_not_drawn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Tanh(), nn.Linear(9, 3)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks, _, losses = searched(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] * masks.get(name, 1)), name
    assert all(loss > 0 for loss in losses)


@pytest.mark.parametrize(("option", "value"), [("score_lr", 0.0), ("budget", 0.0), ("budget", math.inf)])
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{option} = {value}"):
        callback_of("cts", MethodContext(DENSITY, "4", Recipe.sgd(epochs=1)), {option: value})
