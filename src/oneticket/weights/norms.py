"""Choices of normalisation parameters: the state from which gains, biases and running statistics come."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from oneticket.calling import call, each, tensors_of
from oneticket.prunable import by_unit, transposed_groups
from oneticket.randomness import seeded
from oneticket.registry import NoFacts, Registry
from oneticket.weights.base import DrawContext, State

_BY_CHANNEL = nn.modules.batchnorm._NormBase  # batch and instance normalisation of every dimension

NORMALISATIONS = (
    _BY_CHANNEL,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
"""The kinds of layers whose parameters and buffers are normalisation parameters."""

Norms: TypeAlias = Callable[[Mapping[str, Tensor], DrawContext, Collection[str]], State]

NORMS: Registry[Norms, NoFacts] = Registry("norms", NoFacts)
"""Each returns a drawn state with other values of the named normalisation parameters (methods §5).

It takes the state, the context with the other values, and the names from :func:`norm_names`; all other entries of the
result are those of the state.
"""

norms = NORMS.register


def norm_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters and buffers of every normalisation layer, in the order of the model's state dict.

    >>> norm_names(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))
    ('1.weight', '1.bias')
    """
    layers = {name for name, module in model.named_modules() if isinstance(module, NORMALISATIONS)}
    return tuple(name for name in model.state_dict() if name.rpartition(".")[0] in layers)


def norms_behind(model: nn.Module, inputs: Tensor) -> dict[str, str]:
    """The normalisation directly behind each layer that has one: name of the layer → name of the normalisation.

    Directly means that it normalises the very output of the layer, a convolution or a linear layer, which is seen in
    one forward pass of a copy of the model, in evaluation mode. Layers and normalisations that run more than once are
    left out.

    >>> norms_behind(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), torch.zeros(1, 2))
    {'0': '1'}
    """
    trial = copy.deepcopy(model).eval()
    held: list[Tensor] = []  # so that no two outputs have one id
    outputs: dict[int, str] = {}
    runs: Counter[str] = Counter()
    found: dict[str, str] = {}

    def left(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            runs[name] += 1
            if isinstance(output, Tensor):
                held.append(output)
                outputs[id(output)] = name

        return hook

    def entered(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            runs[name] += 1
            if inputs and id(inputs[0]) in outputs:
                found[outputs[id(inputs[0])]] = name

        return hook

    for name, module in trial.named_modules():
        if isinstance(module, NORMALISATIONS):
            module.register_forward_pre_hook(entered(name))
        elif isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            module.register_forward_hook(left(name))
    place = next((p.device for p in trial.parameters()), tensors_of(inputs)[0].device)
    with seeded(0), torch.no_grad():
        call(trial, each(lambda part: part.detach().to(place), inputs))
    return {layer: norm for layer, norm in found.items() if runs[layer] == runs[norm] == 1}


def gains_behind(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """γ of the batch or instance normalisation directly behind each layer that has one.

    Parameters
    ----------
    model : nn.Module
        The network; it is not changed.
    inputs : Tensor
        A batch of inputs.

    Returns
    -------
    dict[str, Tensor]
        Name of the layer's weight → γ of the unit that each entry of the weight leads into, of the weight's shape.
        Layers whose normalisation has no γ, or normalises units together (GroupNorm, LayerNorm), are left out.
    """
    found = {}
    for layer, norm in norms_behind(model, inputs).items():
        owner, gain = model.get_submodule(layer), model.get_submodule(norm).weight
        if isinstance(model.get_submodule(norm), _BY_CHANNEL) and isinstance(gain, Tensor):
            weight, groups = owner.weight, transposed_groups(owner)
            assert isinstance(weight, Tensor)
            units = by_unit(weight, groups)
            by_entry = gain.detach().view(units.shape[0], 1, units.shape[2], 1).expand(units.shape)
            found[f"{layer}.weight"] = by_entry.reshape(weight.shape)
    return found


@norms("as-drawn")
def as_drawn(state: Mapping[str, Tensor], _: DrawContext, __: Collection[str]) -> State:
    """Whatever the draw of the weights gave."""
    return dict(state)


@norms("fresh", source="Oh et al. 2025")
def fresh(state: Mapping[str, Tensor], context: DrawContext, names: Collection[str]) -> State:
    """As in a fresh draw: gains 1, biases 0 and no statistics, unless the network begins otherwise."""
    return _taken(state, context.redrawn, names)


@norms("rewound", source="Frankle et al. 2020")
def rewound(state: Mapping[str, Tensor], context: DrawContext, names: Collection[str]) -> State:
    """As at the rewind point k."""
    return _taken(state, context.rewound, names)


@norms("trained", source="Oh et al. 2025")
def trained(state: Mapping[str, Tensor], context: DrawContext, names: Collection[str]) -> State:
    """As at the end of training."""
    return _taken(state, context.trained, names)


def _taken(state: Mapping[str, Tensor], giver: Mapping[str, Tensor], names: Collection[str]) -> State:
    return {**state, **{name: giver[name].detach().clone() for name in names}}
