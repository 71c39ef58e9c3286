"""Update masks: only the weights under the mask are trained; the others stay at their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods.base import MethodContext, method
from oneticket.training import Callback, TrainState


@method("update", source="Panda et al. 2024; Xu & Zhang 2024", masked="frozen")
def update(context: MethodContext) -> Callback:
    """The whole recipe for the weights under the mask; the others stay at their values, and nothing becomes zero."""
    return Frozen(context)


@method("update-fine-tune", source="Panda et al. 2024; Xu & Zhang 2024", lr="last", masked="frozen")
def update_fine_tune(context: MethodContext) -> Callback:
    """``fine-tune`` for the weights under the mask; the others stay at their values, and nothing becomes zero."""
    return Frozen(context)


class Frozen(Callback):
    """Keeps the weights outside ``context.masks`` where they were when the training began, to the bit.

    Their gradients are zero before they are clipped and before the optimiser sees them. Whatever it does to those
    weights all the same, such as weight decay, is undone.
    """

    def __init__(self, context: MethodContext) -> None:
        self._context = context

    @property
    def masks(self) -> Masks:
        """What is trained."""
        return self._context.masks

    def on_train_start(self, state: TrainState) -> None:
        parameters = dict(state.model.named_parameters())
        _check(self.masks, parameters)
        self._weights: list[Tensor] = [parameters[name] for name in self.masks]
        self._masks = [mask.to(parameters[name].device) for name, mask in self.masks.items()]
        self._keep()

    def _keep(self) -> None:
        self._values = [weight.detach().clone() for weight in self._weights]

    def after_backward(self, state: TrainState) -> None:
        for weight, mask in zip(self._weights, self._masks, strict=True):
            if weight.grad is not None:
                weight.grad.masked_fill_(~mask, 0)

    @torch.no_grad()
    def after_step(self, state: TrainState) -> None:
        for weight, mask, value in zip(self._weights, self._masks, self._values, strict=True):
            weight.copy_(torch.where(mask, weight, value))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._keep()  # the weights that the loop has restored have the others at their values


def _check(masks: Masks, parameters: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise InputError(f"the mask '{name}' does not fit the model", expected="name and shape of a parameter")
