"""Criteria against references written out in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.pruning import CRITERIA, Prunable, ScoreContext, prune


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 4), nn.Linear(4, 2)
    )


@pytest.fixture
def initial(model: nn.Module) -> dict[str, torch.Tensor]:
    """Initial weights on another scale in each layer, so that a criterion that ignores the scale is found out."""
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(t.shape, generator=generator) for name, t in model.state_dict().items()}
    return {name: t * 10.0**i + 0.3 for i, (name, t) in enumerate(state.items())}


def test_magnitude(model: nn.Module) -> None:
    scores = CRITERIA["magnitude"](Prunable(model), ScoreContext())
    assert list(scores) == ["0.weight", "3.weight", "4.weight"]
    for name, score in scores.items():
        weight = model.get_parameter(name).detach().numpy()
        assert (weight < 0).any()
        np.testing.assert_array_equal(score.numpy(), np.where(weight < 0, -weight, weight))
        assert not score.requires_grad


def test_magnitude_at_init_looks_at_the_initial_weights_only(
    model: nn.Module, initial: dict[str, torch.Tensor]
) -> None:
    scores = CRITERIA["magnitude-init"](Prunable(model), ScoreContext(initial=lambda: initial))
    for name, score in scores.items():
        np.testing.assert_array_equal(score.numpy(), np.abs(initial[name].numpy()))


def test_normalised_magnitude(model: nn.Module, initial: dict[str, torch.Tensor]) -> None:
    scores = CRITERIA["normalised-magnitude"](Prunable(model), ScoreContext(initial=lambda: initial))
    for name, score in scores.items():
        start = initial[name].numpy().astype(np.float64)
        sigma = np.sqrt(((start - start.sum() / start.size) ** 2).sum() / start.size)
        weight = model.get_parameter(name).detach().numpy().astype(np.float64)
        np.testing.assert_allclose(score.numpy(), np.abs(weight) / sigma, rtol=1e-12)
        assert score.dtype == torch.float64


def test_normalised_magnitude_is_blind_to_a_layers_scale(model: nn.Module, initial: dict[str, torch.Tensor]) -> None:
    before = CRITERIA["normalised-magnitude"](Prunable(model), ScoreContext(initial=lambda: initial))
    with torch.no_grad():
        model.get_parameter("3.weight").mul_(8)
    scaled = {**initial, "3.weight": initial["3.weight"] * 8}
    after = CRITERIA["normalised-magnitude"](Prunable(model), ScoreContext(initial=lambda: scaled))
    assert all(torch.allclose(before[n], after[n], rtol=1e-12) for n in before)


def test_a_layer_without_spread_cannot_be_normalised(model: nn.Module, initial: dict[str, torch.Tensor]) -> None:
    initial["3.weight"] = torch.zeros(5, 12)
    with pytest.raises(InputError, match=r"initial weights of '3.weight' are all equal"):
        CRITERIA["normalised-magnitude"](Prunable(model), ScoreContext(initial=lambda: initial))


@pytest.mark.parametrize("name", ["magnitude-init", "normalised-magnitude", "movement", "magnitude-increase"])
def test_initial_weights_of_another_network_are_refused(name: str, model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"the initial weights have no '0.weight'"):
        CRITERIA[name](Prunable(model), ScoreContext(initial=lambda: {"conv.weight": torch.ones(1)}))


FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "magnitude": lambda w, w0: np.sqrt(w * w),
    "magnitude-init": lambda w, w0: np.sqrt(w0 * w0),
    "normalised-magnitude": lambda w, w0: np.sqrt(w * w / ((w0 - w0.mean()) ** 2).mean()),
    "movement": lambda w, w0: np.sqrt((w - w0) ** 2),
    "magnitude-increase": lambda w, w0: np.sqrt(w * w) - np.sqrt(w0 * w0),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_and_masks_of_networks(name: str, case: Any) -> None:
    """Scores to 1e-10 and equal masks, on a convolutional network with BatchNorm and on a residual one."""
    generator = torch.Generator().manual_seed(3)
    start = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in case.state().items()}
    context = ScoreContext(initial=lambda: start)
    view = Prunable(case.model)
    scores = CRITERIA[name](view, context)
    expected = {n: FORMULAS[name](w.detach().numpy(), start[n].numpy()) for n, w in view.weights()}
    for layer, score in scores.items():
        np.testing.assert_allclose(score.numpy(), expected[layer], rtol=0, atol=1e-10)
    flat = np.concatenate([e.ravel() for e in expected.values()])
    for density in (0.7, 0.2):
        masks = prune(view, context, criterion=name, allocation="global", density=density)
        chosen = np.zeros(flat.size, dtype=bool)
        chosen[np.lexsort((np.arange(flat.size), -flat))[: math.floor(density * flat.size + 0.5)]] = True
        np.testing.assert_array_equal(torch.cat([m.flatten() for m in masks.values()]).numpy(), chosen)


def test_movement_and_growth_differ_where_a_sign_flips() -> None:
    """From −2 to 2 is far and no growth; from 1 to 3 is growth; what shrank goes first."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 2))
    model[0].weight.data = torch.tensor([[2.0, 3.0, -0.5]])
    context = ScoreContext(initial=lambda: {"0.weight": torch.tensor([[-2.0, 1.0, -1.0]])})
    assert CRITERIA["movement"](Prunable(model), context)["0.weight"].tolist() == [[4.0, 2.0, 0.5]]
    assert CRITERIA["magnitude-increase"](Prunable(model), context)["0.weight"].tolist() == [[0.0, 2.0, -0.5]]


def test_random_scores_are_uniform_and_follow_the_generator() -> None:
    model = Prunable(nn.Sequential(nn.Linear(100, 200), nn.Linear(200, 2)))
    first, again, other = (
        CRITERIA["random"](model, ScoreContext(generator=lambda s=s: torch.Generator().manual_seed(s)))["0.weight"]
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.unique().numel() == first.numel()
    # Mean 1/2 ± 1/√(12n), 4 deviations; the deciles hold n/10 each.
    assert abs(float(first.mean()) - 0.5) < 4 / (12 * first.numel()) ** 0.5
    deciles = torch.histc(first, bins=10, min=0, max=1) / first.numel()
    assert ((deciles - 0.1).abs() < 4 * (0.1 * 0.9 / first.numel()) ** 0.5).all()


def test_random_masks_of_networks_keep_every_weight_equally_often(case: Any) -> None:
    """Over 400 draws each weight within 5 standard errors of the density, the layers together within 4."""
    view, draws, density = Prunable(case.model), 400, 0.3
    kept: dict[str, torch.Tensor] = {n: torch.zeros(w.shape) for n, w in view.weights()}
    for seed in range(draws):
        context = ScoreContext(generator=lambda s=seed: torch.Generator().manual_seed(s))
        masks = prune(view, context, criterion="random", allocation="global", density=density)
        assert masks.kept == math.floor(density * view.total + 0.5)
        kept = {n: count + masks[n] for n, count in kept.items()}
    spread = (density * (1 - density) / draws) ** 0.5
    for count in kept.values():
        assert float((count / draws - density).abs().max()) < 5 * spread
        assert abs(float(count.mean()) / draws - density) < 4 * spread / count.numel() ** 0.5 + 1e-3


def test_random_layers_differ() -> None:
    model = Prunable(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)))
    scores = CRITERIA["random"](model, ScoreContext(generator=torch.Generator))
    assert not torch.equal(scores["0.weight"], scores["1.weight"])


# -- context -------------------------------------------------------------------------------------------------------
def test_evidence_is_computed_when_asked_for_and_once() -> None:
    asked: list[str] = []
    context = ScoreContext(
        initial=lambda: asked.append("initial") or {},  # type: ignore[func-returns-value]
        batches=lambda: asked.append("batches") or [],  # type: ignore[func-returns-value]
        generator=lambda: asked.append("generator") or torch.Generator(),  # type: ignore[func-returns-value]
    )
    assert asked == []
    assert context.generator is context.generator
    assert asked == ["generator"]
    assert context.initial is context.initial
    assert context.batches is context.batches
    with pytest.raises(InputError, match="needs training batches, but there are none"):
        _ = context.first_batch
    assert asked == ["generator", "initial", "batches"]


@pytest.mark.parametrize(
    ("name", "thing"),
    [("initial", "the initial weights"), ("batches", "training batches"), ("generator", "a random generator")],
)
def test_evidence_that_was_not_given_is_named(name: str, thing: str) -> None:
    with pytest.raises(InputError, match=rf"looks at {thing}: not given; expected ScoreContext\({name}=…\)"):
        getattr(ScoreContext(), name)
