"""Twins: live modules made like a model that carries a ticket, such as an average (EMA) of its weights."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from oneticket.masks import Masks
from oneticket.ticket.sharding import layout

Twins: TypeAlias = tuple[weakref.ref[nn.Module], ...]
"""Modules of the same kind and with the same masked tensors as a model that are not part of it."""


class Twin:
    """A module made like a model that carries a ticket; ``gone`` says which weights are masked, by tensor."""

    def __init__(self, module: nn.Module, gone: Mapping[str, Tensor]) -> None:
        self.kind = type(module).__name__
        self._module = weakref.ref(module)
        self._gone = gone
        self._before = self._total(module)

    def averages(self, stepped: set[int]) -> bool:
        """Whether its masked weights have changed without a step of an optimiser, and are not zero."""
        module = self._module()
        if module is None or any(id(parameter) in stepped for parameter in module.parameters()):
            return False
        if not fits(module, self._gone):
            return False
        now = self._total(module)
        return now != self._before and now[0] != 0

    def _total(self, module: nn.Module) -> tuple[float, float]:
        """Sums over the masked weights, of magnitudes and of values."""
        parameters = dict(module.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            parts = [parameters[name][gone.to(parameters[name].device)].double() for name, gone in self._gone.items()]
            return sum(float(p.abs().sum()) for p in parts), sum(float(p.sum()) for p in parts)


def twins_of(model: nn.Module, masks: Masks) -> Twins:
    """The live modules that may be copies of ``model``, such as an average that is made of it."""
    own = {id(module) for module in model.modules()}
    alike = (thing for thing in gc.get_objects() if type(thing) is type(model) and id(thing) not in own)
    return tuple(weakref.ref(thing) for thing in alike if fits(thing, masks))


def fits(module: nn.Module, masks: Mapping[str, Tensor]) -> bool:
    """Whether ``module`` has values under all names of the masks, in their shapes."""
    parameters: Mapping[str, Tensor] = {}
    with suppress(AttributeError):  # of one that is still being built
        parameters = dict(module.named_parameters(remove_duplicate=False))
    found = [(parameters.get(name), mask) for name, mask in masks.items()]
    return all(
        p is not None and not is_lazy(p) and not p.is_meta and layout(p) is None and p.shape == mask.shape
        for p, mask in found
    )
