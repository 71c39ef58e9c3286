"""L0 regularisation by hard-concrete gates, then a cut to the density."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import Cutting, checked
from oneticket.pruning import kept_count
from oneticket.pruning.selection import largest
from oneticket.training import Callback, TrainState

GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3
_SPREAD = 0.01  # standard deviation of log α at the start
_EDGE = 1e-6  # noise stays this far from 0 and 1, where its logit is infinite


@method("l0", source="Louizos et al. 2018", makes="masks")
def l0(
    context: MethodContext, *, strength: float = 0.1, gate_lr: float = 0.01, keep: float = 0.5, cut: float = 0.5
) -> Callback:
    """L0 penalty by a hard-concrete gate on each prunable weight; then the weights of the most closed gates go.

    The penalty λ Σ sigmoid(log α − β log(−γ/ζ)) is added to the mean loss, λ = ``strength`` / number of training
    samples, as published (0.1/n on MNIST). Each step draws one gate for each weight. log α start around
    logit(``keep``) and have an Adam of their own at the constant rate ``gate_lr``. After the fraction ``cut`` of the
    training, the ⌊ρN⌉ weights with the largest log α stay (ties broken by |W|, then by index), become W·ẑ with the
    deterministic gates ẑ, and train on without gates. Unlike in the authors' code, each weight has a gate of its
    own, log α is not clamped, and weight decay is left to the optimiser.
    """
    return HardConcrete(
        context.density,
        checked("l0", "cut", cut, most=1),
        strength=checked("l0", "strength", strength),
        gate_lr=checked("l0", "gate_lr", gate_lr),
        keep=checked("l0", "keep", keep, most=1 - _EDGE),
    )


def sampled_gates(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """z = min(1, max(0, s(ζ − γ) + γ)), s = sigmoid((logit u + log α)/β), of ``noise`` u uniform on (0, 1); §2.3."""
    return _stretched((torch.logit(noise, eps=_EDGE) + log_alpha) / BETA)


def final_gates(log_alpha: Tensor) -> Tensor:
    """ẑ = min(1, max(0, sigmoid(log α)(ζ − γ) + γ)), the gates of the network in evaluation; equation 13."""
    return _stretched(log_alpha)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z ≠ 0) = sigmoid(log α − β log(−γ/ζ)); equation 12."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def _stretched(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


class HardConcrete(Cutting):
    """Multiplies the weights by sampled gates in each step until the cut, and trains log α with them.

    ``log_alpha`` holds the gates of all weights in one vector: weight after weight, row-major.
    """

    def __init__(self, density: float, cut: float, *, strength: float, gate_lr: float, keep: float) -> None:
        super().__init__(density, cut)
        self._strength, self._rate, self._start = strength, gate_lr, math.log(keep / (1 - keep))

    def on_train_start(self, state: TrainState) -> None:
        super().on_train_start(state)
        self._sizes = [weight.numel() for weight in self.weights]
        self._values = [torch.empty_like(weight, requires_grad=False) for weight in self.weights]
        start = torch.randn(sum(self._sizes), generator=state.generator("gates", 0)) * _SPREAD + self._start
        self.log_alpha = nn.Parameter(start.to(self.weights[0]))
        self._optimizer = torch.optim.Adam([self.log_alpha], lr=self._rate, fused=True)

    def before_forward(self, state: TrainState) -> None:
        if self.is_cut:
            return
        noise = torch.rand(sum(self._sizes), generator=state.generator("gate-noise", state.step))
        self.log_alpha.grad = None
        self._gates = sampled_gates(self.log_alpha, noise.to(self.log_alpha))
        with torch.no_grad():
            torch._foreach_copy_(self._values, self.weights)
            torch._foreach_mul_(self.weights, self._pieces(self._gates.detach()))

    def penalty(self, state: TrainState) -> Tensor | None:
        if self.is_cut:
            return None
        return open_probability(self.log_alpha).sum() * (self._strength / state.samples)

    @torch.no_grad()
    def after_backward(self, state: TrainState) -> None:
        if self.is_cut:
            return
        # The loss saw W·z: its gradient g gives g·W to the gates, on top of the penalty's, and leaves g·z to W.
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights]
        of_gates = torch._foreach_mul(gradients, self._values)
        self._gates.backward(torch.cat([piece.flatten() for piece in of_gates]))  # type: ignore[no-untyped-call]
        torch._foreach_mul_(gradients, self._pieces(self._gates.detach()))
        torch._foreach_copy_(self.weights, self._values)

    def learn(self, state: TrainState) -> None:
        self._optimizer.step()

    @torch.no_grad()
    def settle(self, density: float) -> Masks:
        alive = self.training.masks
        living = torch.cat([mask.flatten() for mask in alive.values()])
        openness = self.log_alpha.detach().cpu().masked_fill(~living, -math.inf)
        magnitude = torch.cat([weight.flatten() for weight in self.weights]).abs().cpu()
        kept = largest_by_both(openness, magnitude, kept_count(density, living.numel()))
        torch._foreach_mul_(self.weights, self._pieces(final_gates(self.log_alpha)))
        pieces = kept.split_with_sizes(self._sizes)
        return Masks({n: piece.view(mask.shape) for (n, mask), piece in zip(alive.items(), pieces, strict=True)})

    def state_dict(self) -> dict[str, Any]:
        gates = {} if self.is_cut else {"log_alpha": self.log_alpha.detach(), "adam": self._optimizer.state_dict()}
        return {**super().state_dict(), **gates}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        if not self.is_cut:
            with torch.no_grad():
                self.log_alpha.copy_(saved["log_alpha"])
            self._optimizer.load_state_dict(saved["adam"])

    def _pieces(self, flat: Tensor) -> list[Tensor]:
        parts = zip(flat.split_with_sizes(self._sizes), self.weights, strict=True)
        return [part.view(weight.shape) for part, weight in parts]


def largest_by_both(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` ≥ 1 largest of ``first``; ties are broken by the larger ``second``, then the lower index.

    All tensors have the shape (n,).

    >>> largest_by_both(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([3.0, 0.0, 4.0]), 2)
    tensor([False,  True,  True])
    """
    kept = largest(first, count)
    tied = first == first[kept].min()
    kept[tied] = largest(second[tied], int(kept[tied].sum()))
    return kept
