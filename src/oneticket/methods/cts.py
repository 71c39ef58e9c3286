"""Concrete Ticket Search: a mask under W_k whose network answers as the whole one does, by a continuous relaxation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.masks import Masks
from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import checked
from oneticket.methods.scores import ScoreTraining
from oneticket.methods.supermask import start_logit
from oneticket.pruning import ALLOCATIONS
from oneticket.training import Callback, TrainState

TAU = 2 / 3
"""The temperature of the relaxation."""

SCALE = 100.0
"""The factor on the divergence and on the penalty of the budget."""

SMOOTHING, DROP, DROPPED = 0.01, 0.88, 0.1
"""Rate of the running mean λ; the fraction of the search at which the rate drops, and to what part."""

_EDGE = 1e-6  # noise stays this far from 0 and 1, where its logit is infinite
_TINY = 1e-12  # a slope of the budget that is not divided by


@method("cts", source="Arora & Teuscher 2025", makes="masks", trains="scores", searches="rewound")
def cts(context: MethodContext, *, score_lr: float = 0.1, budget: float = 1.1) -> Callback:
    """No weight is trained, only a number α for each; each step draws gates, and the loss is what they change.

    The gates are sigmoid(logit(u)/τ + α), one u uniform on (0, 1) for each weight and step, τ = 2/3; all α begin at
    logit(ρ). The loss is 100 · KL(p_sparse ‖ p_dense) between the answers of the gated and of the whole network to the
    batch, both in evaluation mode. GradBalance adds λ ∇S to its gradient, S = 100 (Σ sigmoid(α) / (``budget`` ρN) − 1),
    λ the running mean, at the rate 0.01, of ‖∇loss‖/‖∇S‖ where S ≥ 0, and of 0 elsewhere. Adam steps α at the rate
    ``score_lr``, a tenth of it after 88 % of the training. At the end the ⌊ρN⌉ weights with the largest α stay.
    """
    return ConcreteSearch(
        context.density,
        checked("cts", "score_lr", score_lr),
        checked("cts", "budget", budget),
    )


class ConcreteSearch(ScoreTraining):
    """Shows the network W ∘ gates; ``balance`` is λ."""

    def __init__(self, density: float, score_lr: float, budget: float) -> None:
        super().__init__("cts", density)
        self._rate, self._budget = score_lr, budget
        self.balance = 0.0

    def on_train_start(self, state: TrainState) -> None:
        super().on_train_start(state)
        self._aim = self._budget * self.density * state.masks.total
        state.loss_of = self._divergence

    def first_score(self, weight: Tensor, stream: torch.Generator) -> Tensor:
        return torch.full(weight.shape, start_logit(self.density))

    def optimizer_for(self, scores: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(scores, lr=self._rate)

    def before_forward(self, state: TrainState) -> None:
        state.network.eval()
        super().before_forward(state)

    def factors(self, state: TrainState) -> list[Tensor]:
        stream = state.generator("cts", state.step)
        noise = [torch.rand(weight.shape, generator=stream).to(weight) for weight in self.weights]
        self._gates = [(torch.logit(u, _EDGE) / TAU + a).sigmoid() for u, a in zip(noise, self.scores, strict=True)]
        return self._gates

    def _divergence(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """100 · KL(p_sparse ‖ p_dense), the mean over the batch."""
        with torch.no_grad():
            gated = [weight.clone() for weight in self.weights]
            torch._foreach_copy_(self.weights, self.values)
            dense = network(inputs).log_softmax(1)
            torch._foreach_copy_(self.weights, gated)
        sparse = network(inputs).log_softmax(1)
        return SCALE * F.kl_div(dense, sparse, reduction="batchmean", log_target=True)

    def slopes(self, by_factor: list[Tensor]) -> list[Tensor]:
        of_loss = [slope * gate * (1 - gate) for slope, gate in zip(by_factor, self._gates, strict=True)]
        chances = [score.sigmoid() for score in self.scores]
        of_budget = [SCALE / self._aim * chance * (1 - chance) for chance in chances]
        over = float(torch.stack([chance.sum() for chance in chances]).sum()) >= self._aim
        ratio = _norm(of_loss) / max(_norm(of_budget), _TINY) if over else 0.0
        self.balance += SMOOTHING * (ratio - self.balance)
        return list(torch._foreach_add(of_loss, of_budget, alpha=self.balance))

    def rate(self, done: float) -> float:
        return self._rate * (DROPPED if done >= DROP else 1.0)

    def settle(self, density: float) -> Masks:
        scores = {name: score.cpu() for name, score in zip(self.training.names, self.scores, strict=True)}
        return ALLOCATIONS["global"](scores, density, self.training.masks)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "balance": self.balance}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        self.balance = saved["balance"]


def _norm(tensors: list[Tensor]) -> float:
    """The length of all tensors as one vector."""
    return float(torch.stack(torch._foreach_norm(tensors)).norm())
