"""Edge-popup: a mask is searched under weights that never change, by a score for each of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oneticket.masks import Masks
from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import checked
from oneticket.methods.scores import ScoreTraining
from oneticket.pruning import ALLOCATIONS
from oneticket.training import Callback, TrainState


@method("edge-popup", source="Ramanujan et al. 2020", makes="masks", trains="scores")
def edge_popup(
    context: MethodContext, *, score_lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0005
) -> Callback:
    """No weight is trained, only a score s for each prunable one; each step keeps the largest |s| of every layer.

    Each layer keeps the fraction ρ. The gradient passes straight through the choice: ∂L/∂|s| = ∂L/∂w̃ ∘ w, w̃ = m ∘ w.
    Scores start uniform on ±1/√fan-in and have an SGD of their own with ``momentum`` and ``weight_decay``, whose rate
    falls from ``score_lr`` to 0 along a cosine. All parameters stay at their initial values, those of the head and of
    normalisation layers, too; running statistics are collected. The result is m ∘ W_0, exactly.
    """
    rest = {"momentum": momentum, "weight_decay": weight_decay}
    for option, value in rest.items():
        checked("edge-popup", option, value, most=1, reached=True)
    return EdgePopup(context.density, checked("edge-popup", "score_lr", score_lr), **rest)


class EdgePopup(ScoreTraining):
    """Shows the network m ∘ W, m the largest |s| of each layer; the gradient passes straight through the choice."""

    def __init__(self, density: float, score_lr: float, *, momentum: float, weight_decay: float) -> None:
        super().__init__("edge-popup", density)
        self._rate, self._momentum, self._weight_decay = score_lr, momentum, weight_decay

    def first_score(self, weight: Tensor, stream: torch.Generator) -> Tensor:
        bound = 1 / math.sqrt(weight[0].numel())
        return torch.empty(weight.shape).uniform_(-bound, bound, generator=stream)

    def optimizer_for(self, scores: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(scores, lr=self._rate, momentum=self._momentum, weight_decay=self._weight_decay)

    def factors(self, state: TrainState) -> list[Tensor]:
        masks = self.settle(self.density).values()
        return [mask.to(weight) for mask, weight in zip(masks, self.weights, strict=True)]

    def slopes(self, by_factor: list[Tensor]) -> list[Tensor]:
        return [slope * score.sign() for slope, score in zip(by_factor, self.scores, strict=True)]

    def rate(self, done: float) -> float:
        return self._rate * (1 + math.cos(math.pi * done)) / 2

    def settle(self, density: float) -> Masks:
        sizes = {name: score.abs().cpu() for name, score in zip(self.training.names, self.scores, strict=True)}
        return ALLOCATIONS["layerwise"](sizes, density, self.training.masks)
