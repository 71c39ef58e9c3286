"""Hutchinson's and Fisher's diagonals against whole Hessians and gradients, each sample on its own, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from oneticket.pruning import CRITERIA, Prunable, ScoreContext, curvature

State = dict[str, Tensor]
ALL = ("hutch-diag", "hutch-pruning", "hts", "fisher-pruner", "fts")


def context(case: Any) -> ScoreContext:
    return ScoreContext(batches=lambda: case.batches[:2], generator=lambda: torch.Generator().manual_seed(5))


def scores(case: Any, name: str) -> Tensor:
    return torch.cat([s.flatten() for s in CRITERIA[name](Prunable(case.model), context(case)).values()])


def settled(case: Any) -> State:
    """The state whose running statistics are the mean of those of the batches, each batch normalised by its own."""
    state, seen = case.state(), [{} for _ in case.batches[:2]]  # type: list[State]
    for (images, _), found in zip(case.batches[:2], seen, strict=True):

        def normalise(maps: Tensor, name: str, found: State = found) -> Tensor:
            dims = (0, 2, 3)
            found[f"{name}.running_mean"], found[f"{name}.running_var"] = maps.mean(dims), maps.var(dims)
            mean, variance = maps.mean(dims, keepdim=True), maps.var(dims, keepdim=True, correction=0)
            gain, shift = (state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
            return (maps - mean) / (variance + 1e-5).sqrt() * gain + shift

        case.formula(state, images, normalise)
    return state | {name: (seen[0][name] + seen[1][name]) / 2 for name in seen[0]}


def losses(case: Any, temperature: float) -> tuple[list[Callable[[Tensor], Tensor]], Tensor]:
    """The loss of each of the samples as a function of all prunable weights in one vector, and that vector.

    There are no more than ten samples of a class, so all of them count, in their order: each has signs of its own.
    """
    state = settled(case)
    shapes = {name: weight.shape for name, weight in Prunable(case.model).weights()}

    def normalise(maps: Tensor, name: str) -> Tensor:
        mean, variance, gain, shift = (
            state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (maps - mean) / (variance + 1e-5).sqrt() * gain + shift

    def loss_of(image: Tensor, label: Tensor) -> Callable[[Tensor], Tensor]:
        def value(vector: Tensor) -> Tensor:
            parts = vector.split([shape.numel() for shape in shapes.values()])
            given = {n: part.view(shape) for (n, shape), part in zip(shapes.items(), parts, strict=True)}
            logits = case.formula(state | given, image[None], normalise)[0] / temperature
            return logits.logsumexp(0) - logits[label]

        return value

    samples = [pair for images, labels in case.batches[:2] for pair in zip(images, labels, strict=True)]
    assert torch.stack([label for _, label in samples]).bincount().max() <= 10
    return [loss_of(*sample) for sample in samples], torch.cat([state[name].flatten() for name in shapes])


def slopes(values: list[Callable[[Tensor], Tensor]], weights: Tensor) -> Tensor:
    return torch.stack([torch.autograd.functional.jacobian(value, weights) for value in values])


def hessians(values: list[Callable[[Tensor], Tensor]], weights: Tensor) -> Tensor:
    return torch.stack([torch.func.hessian(value)(weights) for value in values])


def agree(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-10)


def test_hutchinson_is_signs_times_hessian_times_signs_and_what_follows_from_it(case: Any) -> None:
    values, w = losses(case, 200.0)
    stream, products = torch.Generator().manual_seed(5), []
    for hessian in hessians(values, w):
        for _ in range(10):
            z = 2 * torch.empty_like(w).random_(2, generator=stream) - 1
            products.append(z * (hessian @ z))
    h, g = torch.stack(products).mean(0), slopes(values, w).mean(0)
    assert (h < 0).any()
    agree(scores(case, "hutch-diag"), h)
    agree(scores(case, "hutch-pruning"), w**2 * h / 2)
    agree(scores(case, "hts"), (w * g + w**2 * h / 2).abs())


def test_fisher_is_the_mean_of_squared_gradients_and_what_follows_from_it(case: Any) -> None:
    values, w = losses(case, 1.0)
    each = slopes(values, w)
    f, g = each.square().mean(0), each.mean(0)
    agree(scores(case, "fisher-pruner"), w**2 * f / 2)
    agree(scores(case, "fts"), (w * g + w**2 * f / 2).abs())


def test_hutchinson_estimates_the_diagonal_without_bias(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error has the variance that the rest of the Hessian gives it: Σ_j≠i H_ij² for each probe."""
    monkeypatch.setattr(curvature, "PROBES", 40)
    values, w = losses(case, 200.0)
    whole = hessians(values, w)
    diagonal = whole.diagonal(dim1=1, dim2=2)
    rest = (whole.square().sum(2) - diagonal.square()).mean(0) / (40 * len(values))
    error = (scores(case, "hutch-diag") - diagonal.mean(0)) / rest.sqrt().clamp(min=1e-30)
    assert error.square().mean() == pytest.approx(1, abs=0.35)
    assert error.abs().max() < 5


@pytest.mark.usefixtures("few_probes")
@pytest.mark.parametrize("name", ALL)
def test_statistics_that_the_network_holds_do_not_matter(case: Any, name: str) -> None:
    before = scores(case, name)
    for tensor_name, tensor in case.model.state_dict().items():
        if "running" in tensor_name:
            tensor.mul_(3).add_(1)
    assert torch.equal(scores(case, name), before)


@pytest.mark.usefixtures("few_probes")
@pytest.mark.parametrize("name", ALL)
def test_masked_weights_score_zero(case: Any, name: str) -> None:
    with torch.no_grad():
        for _, weight in Prunable(case.model).weights():
            weight.view(-1)[::3] = 0
    found = CRITERIA[name](Prunable(case.model), context(case))
    assert all(not score.view(-1)[::3].any() for score in found.values())
