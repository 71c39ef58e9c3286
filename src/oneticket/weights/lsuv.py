"""The rescaling by data: unit-variance pre-activations, layer by layer, on one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.calling import call
from oneticket.masks import Masks
from oneticket.weights.base import State
from oneticket.weights.context import RescalingContext, masked, rescaling
from oneticket.weights.norms import NORMALISATIONS

TOLERANCE = 0.02
"""How far from 1 the variance of a layer's pre-activations may be."""

MOST_DIVISIONS = 20
"""Maximum number of divisions of a layer by the standard deviation of its pre-activations."""


@rescaling("data", source="Mishkin & Matas 2016, algorithm 1", needs="batch")
def data(weights: Mapping[str, Tensor], masks: Masks, context: RescalingContext) -> State:
    """Each layer divided until its pre-activations vary by 1 on one batch, in the order of execution (LSUV).

    The variance is over samples, units and positions of the layer's output, including its bias, and ends within 0.02 of
    1; without a bias one division is enough. Each layer sees its predecessors already rescaled. Normalisation layers
    use the statistics of the batch, as in training; dropout is off. The orthogonal initialisation of the paper is left
    out, since the masks are given.

    A layer is left unchanged if its output does not vary at all, if twenty divisions are not enough (its bias alone
    varies by about 1), if it is not executed, and if its weight is not the only prunable weight of a module that
    returns one tensor (recurrent cells). For a module executed more than once the first execution counts.
    """
    network = context.network
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(masked(weight, masks[name]))
        for module in network.modules():
            module.training = isinstance(module, NORMALISATIONS)
        handles = [
            network.get_submodule(owner).register_forward_hook(_unit_variance(parameters[name]), with_kwargs=True)
            for owner, name in _owners(weights)
        ]
        try:
            call(network, context.batch)
        finally:
            for handle in handles:
                handle.remove()
    return {name: masked(parameters[name].to(weight), masks[name]) for name, weight in weights.items()}


def _owners(names: Iterable[str]) -> list[tuple[str, str]]:
    """Module and weight for each module that owns exactly one of the named parameters."""
    owned: dict[str, list[str]] = {}
    for name in names:
        owned.setdefault(name.rpartition(".")[0], []).append(name)
    return [(owner, own[0]) for owner, own in owned.items() if len(own) == 1]


def _unit_variance(weight: Tensor) -> Callable[..., Any]:
    """A forward hook that rescales ``weight`` in place and returns the module's output with it."""
    done = False

    def hook(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
        nonlocal done
        if done or not isinstance(output, Tensor):
            return None
        done = True
        before, first = weight.clone(), output
        for _ in range(MOST_DIVISIONS + 1):
            variance = float(output.double().var(correction=0))
            if abs(variance - 1) < TOLERANCE:
                return output
            if not 0 < variance < math.inf:
                break
            weight.div_(math.sqrt(variance))
            output = module.forward(*inputs, **options)
        weight.copy_(before)
        return first

    return hook
