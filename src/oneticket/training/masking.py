"""Keeping masks while any optimiser steps: a masked weight is exactly 0.0 after every step."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

LEAVES_ZEROS = frozenset({torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop})
"""Optimisers that treat each weight by itself, and keep it at zero while its gradient and memory are zero."""


class MaskKeeper:
    """A context in which ``optimizer`` cannot move masked weights away from zero.

    Gradients are masked before each step, so that masked weights never enter momentum, second moments or a gradient
    norm. Weights are masked after it, so that weight decay, earlier momentum or an exotic optimiser cannot bring one
    back. Each masking is one fused operation over all tensors.

    An optimiser of ``LEAVES_ZEROS`` cannot bring a weight back: if weight, gradient and memory are zero, so is its
    step. With ``undisturbed``, weights are not masked again after its steps. The bits are the same, including the sign
    of zeros: a mask keeps it, so that a masked weight may be −0.0 either way.

    Parameters
    ----------
    optimizer : any ``torch.optim.Optimizer``.
    masked : parameter and boolean mask (True where kept) of each masked tensor, equal shapes.
    undisturbed : whether only the optimiser and :meth:`replace` change masked weights, and the optimiser's memory of
        them, while masks are kept.

    Attributes
    ----------
    kept : the current number of kept weights of each tensor.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, masked: Sequence[tuple[Tensor, Tensor]], *, undisturbed: bool = False
    ) -> None:
        self.optimizer = optimizer
        self._masks_again = not (undisturbed and type(optimizer) in LEAVES_ZEROS)
        self._weights = [weight for weight, _ in masked]
        # In the layout of the weights: a fused product of two layouts would take a slow path.
        self._masks = [torch.empty_like(weight, requires_grad=False).copy_(mask) for weight, mask in masked]
        self.kept = _counted([mask for _, mask in masked])
        self._hooks: list[Any] = []

    @property
    def masks(self) -> list[Tensor]:
        """The current masks, boolean, on the CPU, in the order in which they were given."""
        return [(mask != 0).cpu().contiguous() for mask in self._masks]

    @torch.no_grad()
    def replace(self, masks: Sequence[Tensor]) -> None:
        """Keep other masks of the same tensors from now on; weights and the optimiser's memory are masked, too."""
        for kept, mask in zip(self._masks, masks, strict=True):
            kept.copy_(mask)
        self.kept = _counted(masks)
        self.mask_weights()
        self.mask_state()

    def __enter__(self) -> MaskKeeper:
        self.mask_weights()
        self.mask_state()
        if self._weights:
            self._hooks = [self.optimizer.register_step_pre_hook(self._before_step)]
        if self._weights and self._masks_again:
            self._hooks.append(self.optimizer.register_step_post_hook(lambda *_: self.mask_weights()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _before_step(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        self.mask_gradients()
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        # A closure computes gradients inside the step, so they must be masked inside the closure.
        def masking() -> Any:
            loss = closure()
            self.mask_gradients()
            return loss

        return (args[0], masking, *args[2:]), {key: value for key, value in kwargs.items() if key != "closure"}

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradients of masked weights."""
        pairs = [(w.grad, m) for w, m in zip(self._weights, self._masks, strict=True) if w.grad is not None]
        if pairs:
            torch._foreach_mul_([gradient for gradient, _ in pairs], [mask for _, mask in pairs])

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Zero the masked weights."""
        if self._weights:
            torch._foreach_mul_(self._weights, self._masks)

    @torch.no_grad()
    def mask_state(self) -> None:
        """Zero the optimiser's memory of masked weights (momentum, moments)."""
        for weight, mask in zip(self._weights, self._masks, strict=True):
            for value in self.optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.mul_(mask.to(value.dtype))


def _counted(masks: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(int(mask.count_nonzero()) for mask in masks)
