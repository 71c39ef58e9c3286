"""L1 regularisation by its proximal step, then a cut to the density."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import Cutting, checked
from oneticket.training import Callback, TrainState


@method("l1", source="Tibshirani 1996; proximal step: Daubechies et al. 2004", makes="masks")
def l1(context: MethodContext, *, strength: float = 1e-2, cut: float = 0.5) -> Callback:
    """L1 penalty on the prunable weights by proximal steps; then the smallest go.

    After each optimiser step W becomes sign(W)·max(|W| − ηλ, 0), with λ = ``strength`` and η the learning rate of that
    weight at that step. After the fraction ``cut`` of the training the ⌊ρN⌉ largest |W| of the whole network stay and
    train on without the penalty. If fewer weights are above zero, the first zeros by index stay, too. λΣη, summed over
    the steps before the cut, is how far a weight moves towards zero in all: where that is far below the size of the
    weights, what is left is the cut alone.
    """
    return Proximal(context.density, checked("l1", "cut", cut, most=1), checked("l1", "strength", strength))


@torch.no_grad()
def soften(weights: Sequence[Tensor], thresholds: Sequence[float]) -> None:
    """Set each tensor in place to sign(W)·max(|W| − τ, 0), the minimiser x of (x − W)²/2 + τ|x|, for its τ ≥ 0."""
    # W minus W clamped to [−τ, τ]: exactly zero where |W| ≤ τ, and no sign is computed.
    within = torch._foreach_clamp_max(list(weights), list(thresholds))
    torch._foreach_clamp_min_(within, [-threshold for threshold in thresholds])
    torch._foreach_sub_(list(weights), within)


class Proximal(Cutting):
    """Softens the weights after each step until the cut."""

    def __init__(self, density: float, cut: float, strength: float) -> None:
        super().__init__(density, cut)
        self._strength = strength

    def on_train_start(self, state: TrainState) -> None:
        super().on_train_start(state)
        groups = {weight: group for group in state.optimizer.param_groups for weight in group["params"]}
        self._trained = [weight for weight in self.weights if weight in groups]
        self._groups = [groups[weight] for weight in self._trained]

    def learn(self, state: TrainState) -> None:
        soften(self._trained, [float(group["lr"]) * self._strength for group in self._groups])
