"""Edge-popup against its definition in float64: the choice, the straight-through gradient, its own SGD."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
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


def trained(**options: float) -> tuple[nn.Module, Masks]:
    """One batch of all samples a step, so that their order does not matter."""
    model, recipe = network(), Recipe.sgd(epochs=STEPS, batch_size=20, lr=1.0)
    callback = callback_of("edge-popup", MethodContext(DENSITY, "4", recipe), options)
    masks = train(model, data(), recipe, masks=Masks.full(dict(Prunable(model).weights())), callbacks=[callback]).masks
    assert masks is not None
    return model, masks


def kept_of(score: Tensor, count: int) -> Tensor:
    order = sorted(range(score.numel()), key=lambda i: (-abs(float(score.view(-1)[i])), i))
    mask = torch.zeros(score.numel())
    mask[order[:count]] = 1
    return mask.view(score.shape).double()


def test_scores_follow_the_straight_through_gradient_by_sgd_along_a_cosine() -> None:
    first, second, head = (layer for layer in network() if isinstance(layer, nn.Linear))
    layers, streams, (x, y) = (first, second), Streams(0), data()
    scores = [
        torch.empty(w.shape).uniform_(-(b := w.shape[1] ** -0.5), b, generator=streams.generator("mask", "scores", i))
        for i, w in enumerate(layer.weight for layer in layers)
    ]
    scores, speeds = [s.double() for s in scores], [torch.zeros(s.shape, dtype=torch.float64) for s in scores]
    counts = [math.floor(DENSITY * 54 + 0.5), math.floor(DENSITY * 117 + 0.5) - math.floor(DENSITY * 54 + 0.5)]
    for step in range(STEPS):
        effective = [
            (layer.weight.detach() * kept_of(s, n)).requires_grad_()
            for layer, s, n in zip(layers, scores, counts, strict=True)
        ]
        hidden = torch.tanh(x @ effective[0].T + first.bias)
        hidden = torch.tanh(hidden @ effective[1].T + second.bias)
        loss = F.cross_entropy(hidden @ head.weight.T + head.bias, y)
        slopes = torch.autograd.grad(loss, effective)
        rate = 0.1 * (1 + math.cos(math.pi * step / STEPS)) / 2
        for s, v, layer, slope in zip(scores, speeds, layers, slopes, strict=True):
            v.mul_(0.9).add_(slope * layer.weight.detach() * s.sign() + 5e-4 * s)
            s.sub_(rate * v)
    model, masks = trained()
    for (name, mask), s, n in zip(masks.items(), scores, counts, strict=True):
        assert torch.equal(mask.double(), kept_of(s, n)), name
        assert torch.equal(model.get_parameter(name), network().get_parameter(name) * mask)


def test_the_search_lowers_the_loss_without_touching_a_weight() -> None:
    def loss(model: nn.Module) -> float:
        return float(F.cross_entropy(model(data()[0]), data()[1]))

    at_start, after = trained(score_lr=1e-12), trained(score_lr=3.0)
    assert loss(after[0]) < loss(at_start[0])
    assert at_start[1] != after[1]
    assert torch.equal(after[0].get_parameter("4.weight"), network().get_parameter("4.weight"))


@pytest.mark.parametrize(("option", "value"), [("score_lr", 0.0), ("momentum", -0.1), ("weight_decay", 2.0)])
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{option} = {value}"):
        callback_of("edge-popup", MethodContext(DENSITY, "4", Recipe.sgd(epochs=1)), {option: value})
