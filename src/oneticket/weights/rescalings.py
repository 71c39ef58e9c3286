"""Rescalings: how the kept weights compensate for the pruned ones (methods §5)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from oneticket.masks import Masks
from oneticket.prunable import by_unit, transposed_groups
from oneticket.weights.base import State
from oneticket.weights.context import Rescaled, RescalingContext, masked, rescaling


@rescaling("none")
def none(weights: Mapping[str, Tensor], masks: Masks, _: RescalingContext) -> State:
    """The weights as they are."""
    return {name: masked(weight, masks[name]) for name, weight in weights.items()}


@rescaling("layer", source="Morcos et al. 2019, review", again="compounds")
def layer(weights: Mapping[str, Tensor], masks: Masks, _: RescalingContext) -> State:
    """Each layer over the square root of its density, W_l / √ρ_l; a layer of which nothing is left stays zero.

    This restores the second moment that the layer's N_l entries had before random entries were dropped.
    """
    return _by_density(weights, masks)


@rescaling("fan-in", source="Evci et al. 2022", again="compounds")
def fan_in(weights: Mapping[str, Tensor], masks: Masks, context: RescalingContext) -> State:
    """Each output unit by its own kept inputs f_i: its weights times √(f_l/f_i), for a variance of σ_l² f_l/f_i.

    f_l is N_l over the number of output units, σ_l² the variance of the layer before. A fresh draw from N(0, 2/f_l),
    such as that of a built-in model, is not multiplied but drawn anew from N(0, 2/f_i), the same distribution. Output
    units lie along the first dimension, in transposed convolutions along the second of each group; transposed
    convolutions are recognised only if the context has a network. A unit without inputs stays zero.
    """
    return {
        name: _by_fan_in(weight, masks[name], _transposed(name, weight, context), context)
        for name, weight in weights.items()
    }


@rescaling("matched", source="Morcos et al. 2019, review", needs="ticket")
def matched(weights: Mapping[str, Tensor], masks: Masks, context: RescalingContext) -> State:
    """Each layer times the factor that gives it the second moment of the other side's kept weights.

    For weights at the initial scale (re-drawn, initial, signs), the other side is the ticket, W_k under its own masks;
    for weights at a ticket's scale (rewound, trained, reshuffled), it is the random ticket: re-drawn weights under the
    ticket's masks permuted over the network. The second moment is the mean of w² over the kept weights of a layer. If
    either side has no kept weight or the moment zero, the layer is left unchanged.
    """
    others, kept = context.ticket if context.at_initial_scale else context.random
    return {
        name: masked(weight * _factor(weight[masks[name]], others[name][kept[name]]), masks[name])
        for name, weight in weights.items()
    }


# Derived for optimisers whose steps forget the size of the gradient.
@rescaling("smup", source="Dey et al. 2024", again="compounds", optimizers=("adam", "adamw"))
def smup(weights: Mapping[str, Tensor], masks: Masks, _: RescalingContext) -> Rescaled:
    """The weights as of ``layer``, and the learning rate of each layer over its density; for Adam only.

    The factor is 1/ρ_l, and 1.0 for a layer without kept weights.
    """
    factors = {name: 1 / (density or 1.0) for name, density in masks.densities().items()}
    return Rescaled(_by_density(weights, masks), factors)


def _by_density(weights: Mapping[str, Tensor], masks: Masks) -> State:
    densities = masks.densities()
    return {name: masked(weight / math.sqrt(densities[name] or 1.0), masks[name]) for name, weight in weights.items()}


def _factor(own: Tensor, other: Tensor) -> float:
    """The factor that gives ``own`` the mean square of ``other``, both vectors; 1.0 if no factor does."""
    here, there = (float(values.detach().double().square().mean()) for values in (own, other))
    # The mean of an empty vector is NaN, for which every comparison is False.
    return math.sqrt(there / here) if here > 0 and there > 0 else 1.0


def _transposed(name: str, weight: Tensor, context: RescalingContext) -> int | None:
    owner = context.layer(name) if weight.dim() > 1 else None
    return None if owner is None else transposed_groups(owner)


def _by_fan_in(weight: Tensor, mask: Tensor, transposed: int | None, context: RescalingContext) -> Tensor:
    if weight.numel() == 0:
        return weight.clone()
    # A unit without inputs divides by zero below; it is masked entirely, so the result is not used.
    units = by_unit(mask, transposed)
    kept = units.sum(dim=(1, 3), keepdim=True).double()
    if context.redrawn and context.he_normal:
        drawn = torch.randn(weight.shape, generator=context.generator, dtype=torch.float64)
        scaled = by_unit(drawn, transposed).to(kept.device) * (2 / kept).sqrt()
    else:
        inputs = units.shape[1] * units.shape[3]
        scaled = by_unit(weight.double(), transposed) * (inputs / kept).sqrt().to(weight.device)
    return masked(scaled.reshape(weight.shape).to(device=weight.device, dtype=weight.dtype), mask)
