"""Supermasks against their definition in float64: the draw, the straight-through gradient, its own SGD."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.supermask import signed_constant, start_logit
from oneticket.prunable import Prunable
from oneticket.randomness import Streams
from oneticket.training import Recipe, train

DENSITY, STEPS = 0.3, 6


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 6, generator=generator, dtype=torch.float64), torch.arange(20) % 3


def trained(steps: int = STEPS, **options: float | str) -> tuple[nn.Module, Masks]:
    """One batch of all samples a step, so that their order does not matter."""
    model, recipe = network(), Recipe.sgd(epochs=steps, batch_size=20, lr=1.0)
    callback = callback_of("supermask", MethodContext(DENSITY, "4", recipe), options)
    masks = train(model, data(), recipe, masks=Masks.full(dict(Prunable(model).weights())), callbacks=[callback]).masks
    assert masks is not None
    return model, masks


def constants(weight: Tensor) -> Tensor:
    mean = sum(weight.flatten().tolist()) / weight.numel()
    spread = math.sqrt(sum((w - mean) ** 2 for w in weight.flatten().tolist()) / weight.numel())
    return torch.tensor([[math.copysign(spread, w) for w in row] for row in weight.tolist()], dtype=torch.float64)


@pytest.mark.parametrize("values", ["initial", "signed-constant"])
def test_probabilities_follow_the_straight_through_gradient_by_sgd(values: str) -> None:
    first, second, head = (layer for layer in network() if isinstance(layer, nn.Linear))
    weights = [layer.weight.detach() for layer in (first, second)]
    if values == "signed-constant":
        weights = [constants(weight) for weight in weights]
    v = [torch.full(w.shape, math.log(DENSITY / (1 - DENSITY)), dtype=torch.float64) for w in weights]
    speeds, (x, y) = [torch.zeros_like(score) for score in v], data()
    for step in range(STEPS):
        stream = Streams(0).generator("mask", "supermask", step)
        drawn = [torch.rand(w.shape, generator=stream).double() for w in weights]
        chances = [1 / (1 + torch.exp(-score)) for score in v]
        effective = [(w * (u < p).double()).requires_grad_() for w, u, p in zip(weights, drawn, chances, strict=True)]
        hidden = torch.tanh(x @ effective[0].T + first.bias)
        hidden = torch.tanh(hidden @ effective[1].T + second.bias)
        slopes = torch.autograd.grad(F.cross_entropy(hidden @ head.weight.T + head.bias, y), effective)
        for score, speed, w, p, slope in zip(v, speeds, weights, chances, slopes, strict=True):
            speed.mul_(0.9).add_(slope * w * p * (1 - p))
            score.sub_(100.0 * speed)
    flat = torch.cat([score.flatten() for score in v])
    order = sorted(range(len(flat)), key=lambda i: (-float(flat[i]), i))
    expected = torch.zeros(len(flat))
    expected[order[: math.floor(DENSITY * len(flat) + 0.5)]] = 1
    model, masks = trained(values=values, score_lr=100.0)
    assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]).float(), expected)
    for (name, mask), weight in zip(masks.items(), weights, strict=True):
        torch.testing.assert_close(model.get_parameter(name), weight * mask, rtol=1e-12, atol=0)


def test_the_search_lowers_the_loss_without_touching_a_weight() -> None:
    def loss(model: nn.Module) -> float:
        return float(F.cross_entropy(model(data()[0]), data()[1]))

    at_start, after = trained(60, score_lr=1e-12), trained(60, score_lr=100.0)
    assert loss(after[0]) < loss(at_start[0])
    assert at_start[1] != after[1]
    assert torch.equal(after[0].get_parameter("4.weight"), network().get_parameter("4.weight"))


@settings(max_examples=40)
@given(values=st.lists(st.floats(-9, 9, allow_nan=False), min_size=1, max_size=8))
def test_a_signed_constant_keeps_signs_and_has_one_magnitude(values: list[float]) -> None:
    weight = torch.tensor(values, dtype=torch.float64)
    made = signed_constant(weight)
    assert torch.equal(made.sign(), weight.sign() * (made != 0))
    assert len(set(made.abs().tolist()) - {0.0}) <= 1


@given(density=st.floats(0, 1))
def test_the_first_probability_is_the_density(density: float) -> None:
    assert 1 / (1 + math.exp(-start_logit(density))) == pytest.approx(density, abs=2e-6)


@pytest.mark.parametrize(("option", "value"), [("score_lr", 0.0), ("momentum", -0.1), ("momentum", 2.0)])
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{option} = {value}"):
        callback_of("supermask", MethodContext(DENSITY, "4", Recipe.sgd(epochs=1)), {option: value})


def test_another_word_for_the_values_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'signed-constant'"):
        callback_of("supermask", MethodContext(DENSITY, "4", Recipe.sgd(epochs=1)), {"values": "sign-constant"})
