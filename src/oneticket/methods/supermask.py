"""Supermasks: Bernoulli masks over weights that never change, whose probabilities are trained."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from oneticket.masks import Masks
from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import checked
from oneticket.methods.scores import ScoreTraining
from oneticket.pruning import ALLOCATIONS
from oneticket.training import Callback, TrainState

Values = Literal["initial", "signed-constant"]

_EDGE = 1e-6  # a probability stays this far from 0 and 1, where its logit is infinite


@method("supermask", source="Zhou et al. 2019, §5", makes="masks", trains="scores")
def supermask(
    context: MethodContext, *, values: Values = "initial", score_lr: float = 1000.0, momentum: float = 0.9
) -> Callback:
    """No weight is trained, only a probability for each: each step draws a mask from Bernoulli(sigmoid(v)).

    All v begin at logit(ρ). The gradient passes straight through the draw: ∂L/∂v = ∂L/∂w̃ ∘ w ∘ sigmoid′(v), w̃ = m ∘ w.
    v have an SGD of their own with ``momentum`` at the constant rate ``score_lr``. At the end the ⌊ρN⌉ weights with the
    largest v stay; until then, an evaluation sees those. With ``values`` = ``signed-constant`` each prunable weight of
    layer l becomes sign(w) σ_l before the first step, σ_l the standard deviation of the layer. Running statistics of
    normalisation layers are collected; nothing else changes.
    """
    return Supermask(
        context.density,
        checked("supermask", "score_lr", score_lr),
        momentum=checked("supermask", "momentum", momentum, most=1, reached=True),
        constant=values == "signed-constant",
    )


def signed_constant(weight: Tensor) -> Tensor:
    """sign(w) σ, σ the population standard deviation of all entries; a weight of exactly zero stays zero.

    >>> signed_constant(torch.tensor([1.0, -3.0, 1.0, -3.0]))
    tensor([ 2., -2.,  2., -2.])
    """
    return weight.sign() * float(weight.double().std(correction=0))


class Supermask(ScoreTraining):
    """Shows the network m ∘ W, m drawn anew in each step with the probabilities sigmoid(v)."""

    def __init__(self, density: float, score_lr: float, *, momentum: float, constant: bool) -> None:
        super().__init__("supermask", density)
        self._rate, self._momentum, self._constant = score_lr, momentum, constant

    @torch.no_grad()
    def on_train_start(self, state: TrainState) -> None:
        super().on_train_start(state)
        if self._constant:
            for weight in self.weights:
                weight.copy_(signed_constant(weight))

    def first_score(self, weight: Tensor, stream: torch.Generator) -> Tensor:
        return torch.full(weight.shape, start_logit(self.density))

    def optimizer_for(self, scores: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(scores, lr=self._rate, momentum=self._momentum)

    def factors(self, state: TrainState) -> list[Tensor]:
        stream = state.generator("supermask", state.step)
        noise = [torch.rand(weight.shape, generator=stream).to(weight) for weight in self.weights]
        return [(u < s.sigmoid()).to(s) for u, s in zip(noise, self.scores, strict=True)]

    def slopes(self, by_factor: list[Tensor]) -> list[Tensor]:
        chances = [score.sigmoid() for score in self.scores]
        return [slope * p * (1 - p) for slope, p in zip(by_factor, chances, strict=True)]

    def rate(self, done: float) -> float:
        return self._rate

    def settle(self, density: float) -> Masks:
        scores = {name: score.cpu() for name, score in zip(self.training.names, self.scores, strict=True)}
        return ALLOCATIONS["global"](scores, density, self.training.masks)


def start_logit(density: float) -> float:
    """logit(ρ), finite also at 0 and 1.

    >>> start_logit(0.5)
    0.0
    """
    chance = min(max(density, _EDGE), 1 - _EDGE)
    return math.log(chance / (1 - chance))
