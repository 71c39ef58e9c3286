"""Rescalings: how the kept weights make up for those that are gone (methods §5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from oneticket.masks import Masks
from oneticket.registry import Registry
from oneticket.weights.base import State


@dataclass(frozen=True)
class RescalingContext:
    """What a rescaling may know beyond weights and masks.

    ``redrawn`` says whether the weights are a fresh draw, which a rescaling may draw anew, or a ticket's, which it may
    only multiply; ``generator``, on the CPU, is for the former.
    """

    redrawn: bool
    generator: torch.Generator


Rescaling: TypeAlias = Callable[[Mapping[str, Tensor], Masks, RescalingContext], State]

rescaling: Registry[Rescaling] = Registry("rescaling")
"""Masked weights of the prunable tensors → their rescaled values: same names, shapes, dtypes, and still masked."""


@rescaling("none")
def none(weights: Mapping[str, Tensor], masks: Masks, _: RescalingContext) -> State:
    """The weights as they are."""
    return {name: _masked(weight, masks[name]) for name, weight in weights.items()}


@rescaling("layer", source="Morcos et al. 2019, review")
def layer(weights: Mapping[str, Tensor], masks: Masks, _: RescalingContext) -> State:
    """Each layer over the square root of its density, W_l / √ρ_l; a layer of which nothing is left stays zero.

    Restores the second moment that the layer's N_l entries had before random ones of them were dropped.
    """
    densities = masks.densities()
    return {name: _masked(weight / math.sqrt(densities[name] or 1.0), masks[name]) for name, weight in weights.items()}


@rescaling("fan-in", source="Evci et al. 2022")
def fan_in(weights: Mapping[str, Tensor], masks: Masks, context: RescalingContext) -> State:
    """Each output unit by its own kept inputs f_i: drawn anew from N(0, 2/f_i), or times √(f_l/f_i) in a ticket.

    Output units lie along the first dimension, and f_l = N_l over their number. A unit with no input left stays zero.
    """
    return {name: _by_fan_in(weight, masks[name], context) for name, weight in weights.items()}


def _by_fan_in(weight: Tensor, mask: Tensor, context: RescalingContext) -> Tensor:
    if weight.numel() == 0:
        return weight.clone()
    inputs = mask.reshape(len(mask), -1)
    # A unit without inputs divides by zero below; it is masked whole, so nothing of that is seen.
    kept = inputs.sum(dim=1).double().view(-1, *[1] * (mask.dim() - 1))
    if context.redrawn:
        drawn = torch.randn(weight.shape, generator=context.generator, dtype=torch.float64)
        scaled = drawn.to(kept.device) * (2 / kept).sqrt()
    else:
        scaled = weight.double() * (inputs.shape[1] / kept).sqrt().to(weight.device)
    return _masked(scaled.to(device=weight.device, dtype=weight.dtype), mask)


def _masked(weight: Tensor, mask: Tensor) -> Tensor:
    # Not a product: that would leave −0.0 where a negative weight was masked.
    return weight.detach().masked_fill(~mask.to(weight.device), 0.0)
