"""Masks searched under weights that never change: a score for each weight is trained in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from oneticket.methods.dense_to_sparse import Cutting, refuse_masked
from oneticket.training import TrainState


class ScoreTraining(Cutting, ABC):
    """Shows the network W ∘ g in each step and trains ``scores``, one for each weight, with an optimiser of their own.

    g are the factors that a subclass makes of the scores (:meth:`factors`); from the gradients by them it makes those
    of the scores (:meth:`slopes`), and at the end the masks (:meth:`settle`). All parameters stay at their values,
    those of the head and of normalisation layers, too, to the bit. The recipe gives the number of steps, the batches
    and the augmentation; its optimiser and learning rate are not used.

    Parameters
    ----------
    method : the name of the method, for its refusals.
    density : ρ at the end.
    """

    scores: list[Tensor]
    """In the weights' order, of their shapes."""

    optimizer: torch.optim.Optimizer

    def __init__(self, method: str, density: float) -> None:
        super().__init__(density, cut=1.0)
        self._method = method

    # -- for subclasses --------------------------------------------------------------------------------------------
    @abstractmethod
    def first_score(self, weight: Tensor, stream: torch.Generator) -> Tensor:
        """The score of each entry of ``weight`` at the start, of its shape."""

    @abstractmethod
    def optimizer_for(self, scores: list[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of the scores."""

    @abstractmethod
    def factors(self, state: TrainState) -> list[Tensor]:
        """The factor on each weight in this step."""

    @abstractmethod
    def slopes(self, by_factor: list[Tensor]) -> list[Tensor]:
        """The gradient by each score, from the gradients of the loss by the factors."""

    @abstractmethod
    def rate(self, done: float) -> float:
        """The learning rate of the scores when the fraction ``done`` of the training is over."""

    # -- the training ----------------------------------------------------------------------------------------------
    def on_train_start(self, state: TrainState) -> None:
        refuse_masked(self._method, state)
        super().on_train_start(state)
        self.values = [torch.empty_like(weight, requires_grad=False) for weight in self.weights]
        self.scores = [self.first_score(w, state.generator("scores", i)).to(w) for i, w in enumerate(self.weights)]
        self.optimizer = self.optimizer_for(self.scores)
        self._trained = {parameter: parameter.requires_grad for parameter in state.model.parameters()}
        masked = set(self.weights)
        for parameter in self._trained:
            parameter.requires_grad_(parameter in masked)

    @torch.no_grad()
    def before_forward(self, state: TrainState) -> None:
        if self.is_cut:
            return
        factors = self.factors(state)
        torch._foreach_copy_(self.values, self.weights)
        torch._foreach_mul_(self.weights, factors)

    @torch.no_grad()
    def after_backward(self, state: TrainState) -> None:
        if self.is_cut:
            return
        found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights]
        slopes = self.slopes(list(torch._foreach_mul(found, self.values)))
        for score, slope, weight in zip(self.scores, slopes, self.weights, strict=True):
            score.grad = slope
            weight.grad = None  # so that the recipe's optimiser leaves the weight as it is
        torch._foreach_copy_(self.weights, self.values)

    def learn(self, state: TrainState) -> None:
        rate = self.rate((state.step - state.times.first) / (state.times.total - state.times.first))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def on_train_end(self, state: TrainState) -> None:
        super().on_train_end(state)
        for parameter, trained in self._trained.items():
            parameter.requires_grad_(trained)

    def state_dict(self) -> dict[str, Any]:
        if self.is_cut:
            return {**super().state_dict(), "scores": []}
        scores = [score.detach().cpu() for score in self.scores]
        return {**super().state_dict(), "scores": scores, self._memory: self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        if not self.is_cut:
            torch._foreach_copy_(self.scores, list(saved["scores"]))
            self.optimizer.load_state_dict(saved[self._memory])

    @property
    def _memory(self) -> str:
        return type(self.optimizer).__name__.lower()
