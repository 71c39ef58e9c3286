"""Edge-popup: a mask is searched under weights that never change, by a score for each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneticket.masks import Masks
from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import Cutting, checked, refuse_masked
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


class EdgePopup(Cutting):
    """Shows the network m ∘ W in each step, and trains ``scores``, one for each weight, in the weights' order."""

    def __init__(self, density: float, score_lr: float, *, momentum: float, weight_decay: float) -> None:
        super().__init__(density, cut=1.0)
        self._rate, self._momentum, self._weight_decay = score_lr, momentum, weight_decay

    def on_train_start(self, state: TrainState) -> None:
        refuse_masked("edge-popup", state)
        super().on_train_start(state)
        self._values = [torch.empty_like(weight, requires_grad=False) for weight in self.weights]
        self.scores = [_drawn(weight, state.generator("scores", i)) for i, weight in enumerate(self.weights)]
        self._optimizer = torch.optim.SGD(
            self.scores, lr=self._rate, momentum=self._momentum, weight_decay=self._weight_decay
        )
        self._trained = {parameter: parameter.requires_grad for parameter in state.model.parameters()}
        masked = set(self.weights)
        for parameter in self._trained:
            parameter.requires_grad_(parameter in masked)

    @torch.no_grad()
    def before_forward(self, state: TrainState) -> None:
        if self.is_cut:
            return
        masks = self.settle(self.density).values()
        torch._foreach_copy_(self._values, self.weights)
        torch._foreach_mul_(self.weights, [mask.to(w) for mask, w in zip(masks, self.weights, strict=True)])

    @torch.no_grad()
    def after_backward(self, state: TrainState) -> None:
        if self.is_cut:
            return
        for score, weight, value in zip(self.scores, self.weights, self._values, strict=True):
            slope = torch.zeros_like(weight) if weight.grad is None else weight.grad
            score.grad = slope * value * score.sign()
            weight.grad = None  # so that the recipe's optimiser leaves the weight as it is
        torch._foreach_copy_(self.weights, self._values)

    def learn(self, state: TrainState) -> None:
        done = (state.step - state.times.first) / (state.times.total - state.times.first)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * (1 + math.cos(math.pi * done)) / 2
        self._optimizer.step()

    def settle(self, density: float) -> Masks:
        sizes = {name: score.abs().cpu() for name, score in zip(self.training.names, self.scores, strict=True)}
        return ALLOCATIONS["layerwise"](sizes, density, self.training.masks)

    def on_train_end(self, state: TrainState) -> None:
        super().on_train_end(state)
        for parameter, trained in self._trained.items():
            parameter.requires_grad_(trained)

    def state_dict(self) -> dict[str, Any]:
        found: Sequence[Tensor] = () if self.is_cut else self.scores
        memory = {} if self.is_cut else {"sgd": self._optimizer.state_dict()}
        return {**super().state_dict(), "scores": [score.cpu() for score in found], **memory}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        if not self.is_cut:
            torch._foreach_copy_(self.scores, list(saved["scores"]))
            self._optimizer.load_state_dict(saved["sgd"])


def _drawn(weight: Tensor, stream: torch.Generator) -> Tensor:
    """Scores uniform on ±1/√fan-in, drawn on the CPU."""
    bound = 1 / math.sqrt(weight[0].numel())
    return torch.empty(weight.shape).uniform_(-bound, bound, generator=stream).to(weight)
