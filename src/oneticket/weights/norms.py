"""Choices of normalisation parameters: the state from which gains, biases and running statistics come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from torch import Tensor, nn

from oneticket.registry import NoFacts, Registry
from oneticket.weights.base import DrawContext, State

NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalisation of every dimension
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
