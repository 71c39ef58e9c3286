"""Spots: the masked weights of one parameter, held at zero or at their values while anything else may change."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.ticket.hooks import on_gradient
from oneticket.ticket.sharding import laid_out_like, layout, local

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by the size of a number in bytes."""


class Spot:
    """A masked parameter of a model, by its name: which tensor it is may change."""

    def __init__(self, model: nn.Module, name: str, mask: Tensor) -> None:
        self.model, self.name, self.gone = model, name, ~mask
        self.held: Tensor | None = None
        self._bits: Tensor | None = None
        self._layout: Any = None
        self._version = -1
        self._handle: Any = None

    def parameter(self) -> nn.Parameter:
        """The parameter as it is now; InputError if the model has none of this name and shape."""
        layer, _, leaf = self.name.rpartition(".")
        weight = None
        with suppress(AttributeError):
            weight = getattr(self.model.get_submodule(layer), leaf)
        if not isinstance(weight, nn.Parameter) or weight.shape != self.gone.shape:
            raise InputError(
                f"the model no longer has the parameters {self.name} that the ticket masks",
                where="Ticket.kept",
                expected="names and shapes as they were when the ticket was put in",
            )
        return weight

    @torch.no_grad()
    def differs(self, weight: Tensor) -> bool:
        """Whether a masked weight is anything but what it is held at, 0.0."""
        own = local(weight.detach())
        return bool((own != 0).logical_and_(self._on(weight)).any())

    def renew(self) -> bool:
        """Hold the parameter of today, masked; True if it was written since, and masked weights differed."""
        weight = self.parameter()
        if weight is not self.held:
            self.release()
            self.held, self._handle = weight, on_gradient(weight, self.mask_gradient)
        elif layout(weight) is None and weight._version == self._version:  # parts are written unseen
            return False
        written = self.differs(weight)
        self.mask()
        return written

    @torch.no_grad()
    def mask(self) -> None:
        """Put the masked weights to what they are held at."""
        if self.held is not None:
            self._put(self.held)
            self._version = self.held._version

    def mask_gradient(self, *_: Any) -> None:
        """Zero the gradients of masked weights."""
        if self.held is None or (gradient := self.held.grad) is None:
            return
        if gradient.is_sparse or gradient.requires_grad:
            self.held.grad = gradient * ~self._on(gradient)
        else:
            self._zero(gradient)

    def release(self) -> None:
        """Hold nothing, and leave no hook."""
        if self._handle is not None:
            self._handle.remove()
        self.held = self._handle = None

    @torch.no_grad()
    def forget(self, memory: Tensor) -> None:
        """Zero what an optimiser remembers of masked weights."""
        local(memory).masked_fill_(self._on(memory), 0)

    def _put(self, weight: Tensor) -> None:
        self._zero(weight)

    @torch.no_grad()
    def _zero(self, tensor: Tensor) -> None:
        # By its bits: a product would make nan of inf, and to fill by a boolean mask takes 16 times as long.
        bits = local(tensor).view(_INTEGERS[tensor.element_size()])
        if layout(tensor) != self._layout:
            self._layout, self._bits = layout(tensor), None
        if self._bits is None or self._bits.dtype != bits.dtype or self._bits.device != bits.device:
            self._bits = torch.empty_like(bits).fill_(-1).masked_fill_(self._on(tensor), 0)
        bits.bitwise_and_(self._bits)

    def _on(self, tensor: Tensor) -> Tensor:
        """Which weights are masked, of those that this process holds of a parameter, its gradient or its memory."""
        if layout(tensor) is not None:
            return local(laid_out_like(self.gone, tensor))
        if self.gone.device != tensor.device:
            self.gone = self.gone.to(tensor.device)
        return self.gone


class FrozenSpot(Spot):
    """A masked parameter whose masked weights stay, to the bit, at the values that they had when it was made."""

    def __init__(self, model: nn.Module, name: str, mask: Tensor) -> None:
        super().__init__(model, name, mask)
        self.take()

    def take(self) -> None:
        """Hold the masked weights at their present values from now on."""
        self._value = self.parameter().detach().clone()

    @torch.no_grad()
    def differs(self, weight: Tensor) -> bool:
        """Whether a masked weight is anything but what it is held at."""
        own, value = local(weight.detach()), self._value_for(weight)
        integers = _INTEGERS[own.element_size()]  # NaN is equal to itself
        return bool((own.view(integers) != value.view(integers)).logical_and_(self._on(weight)).any())

    def _put(self, weight: Tensor) -> None:
        own = local(weight)
        own.copy_(torch.where(self._on(weight), self._value_for(weight), own))

    def _value_for(self, weight: Tensor) -> Tensor:
        """What is held, of the part of ``weight`` that this process has, in its type and on its device."""
        value = self._value
        if layout(value) != layout(weight):
            value = laid_out_like(value, weight)
        own = local(weight)
        return local(value).to(device=own.device, dtype=own.dtype)
