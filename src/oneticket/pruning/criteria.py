"""Criteria that use only the present and the initial weights, and the random criterion."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.prunable import Prunable
from oneticket.pruning.base import Scores, criterion
from oneticket.pruning.context import ScoreContext


@criterion("magnitude", source="Han et al. 2015, §3")
def magnitude(model: Prunable, _: ScoreContext) -> Scores:
    """Absolute value of each weight, |W|."""
    return {name: weight.detach().abs() for name, weight in model.weights()}


@criterion("magnitude-init", source="Frankle et al. 2021", at="init")
def magnitude_init(model: Prunable, context: ScoreContext) -> Scores:
    """Absolute value of each weight at initialisation, |W_0|."""
    return {name: _initial(context, name).abs() for name in model.names}


@criterion("normalised-magnitude", source="Morcos et al. 2019, review")
def normalised_magnitude(model: Prunable, context: ScoreContext) -> Scores:
    """Absolute value over the spread of the layer's initial weights, |W| / σ_l, in float64.

    σ_l is the population standard deviation of W_0,l. Raises InputError if all initial weights of a layer are equal.
    """
    return {name: weight.detach().double().abs() / _spread(context, name) for name, weight in model.weights()}


@criterion("movement", source="Zhou et al. 2019, §2")
def movement(model: Prunable, context: ScoreContext) -> Scores:
    """Distance of each weight from where it began, |W − W_0|, in float64."""
    return {name: (weight - start).abs() for name, weight, start in _pairs(model, context)}


@criterion("magnitude-increase", source="Zhou et al. 2019, §2", scores="signed")
def magnitude_increase(model: Prunable, context: ScoreContext) -> Scores:
    """Growth of each weight's absolute value since initialisation, |W| − |W_0|, in float64."""
    return {name: weight.abs() - start.abs() for name, weight, start in _pairs(model, context)}


@criterion("random", at="init")
def uniform(model: Prunable, context: ScoreContext) -> Scores:
    """Uniform random numbers."""
    # In float32, 20 million draws would give hundreds of thousands of ties, which are broken by index.
    return {
        name: torch.rand(weight.shape, generator=context.generator, dtype=torch.float64)
        for name, weight in model.weights()
    }


def _pairs(model: Prunable, context: ScoreContext) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, W and W_0 of each prunable weight, in float64 on the weight's device."""
    for name, weight in model.weights():
        yield name, weight.detach().double(), _initial(context, name).to(weight.device, torch.float64)


def _initial(context: ScoreContext, name: str) -> Tensor:
    if name not in context.initial:
        raise InputError(f"the initial weights have no '{name}'", expected="a value for each prunable weight")
    return context.initial[name].detach()


def _spread(context: ScoreContext, name: str) -> float:
    spread = float(_initial(context, name).double().std(correction=0))
    if spread == 0:
        raise InputError(
            f"the initial weights of '{name}' are all equal, so magnitudes cannot be normalised by their spread",
            where="criterion 'normalised-magnitude'",
            expected="randomly initialised weights",
        )
    return spread
