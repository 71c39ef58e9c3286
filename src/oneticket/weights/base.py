"""The small interface of weight draws: what a draw may look at → the values an arm starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import msgspec
import torch
from torch import Tensor

from oneticket.lazy import Context, Given
from oneticket.masks import Masks
from oneticket.registry import Registry

State: TypeAlias = dict[str, Tensor]
"""A full state dict: every parameter and buffer by name."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DrawContext(Context):
    """What a draw may look at; what it does not ask for is neither computed nor read.

    Parameters
    ----------
    initial, rewound, trained, redrawn : Callable[[], Mapping[str, Tensor]], optional
        Give the weights at initialisation W_0, after k steps of dense training W_k, at its end W_T, and a fresh draw
        from the initial distribution; each a full state dict. They are read-only here: a draw begins with a copy.
    masks : Callable[[], Masks], optional
        Gives the arm's masks, which say what is kept and which parameters are prunable.
    generator : Callable[[], torch.Generator], optional
        Gives a generator, on the CPU, at the start of its stream.

    Raises
    ------
    InputError
        When a field that was not given is asked for.

    Examples
    --------
    >>> DrawContext(initial=lambda: {"fc.weight": torch.ones(1, 2)}).initial["fc.weight"]
    tensor([[1., 1.]])
    """

    looker = "draw"
    initial: Given[Mapping[str, Tensor]] = Given("the weights at initialisation", seen_as=MappingProxyType)
    rewound: Given[Mapping[str, Tensor]] = Given("the weights at the rewind point", seen_as=MappingProxyType)
    trained: Given[Mapping[str, Tensor]] = Given("the weights at the end of training", seen_as=MappingProxyType)
    redrawn: Given[Mapping[str, Tensor]] = Given("the weights drawn afresh", seen_as=MappingProxyType)
    masks: Given[Masks] = Given("the arm's masks")
    generator: Given[torch.Generator] = Given("a random generator")


Draw: TypeAlias = Callable[[DrawContext], State]


class DrawFacts(msgspec.Struct, frozen=True):
    """What a draw states about itself.

    Parameters
    ----------
    drawn : str, optional
        ``afresh`` where nothing of a ticket is in the weights, so that a rescaling may draw them anew.
    scale : str
        ``initial`` where their magnitudes are those of the initial distribution, not a ticket's.
    """

    drawn: Literal["afresh"] | None = None
    scale: Literal["ticket", "initial"] = "ticket"


DRAWS: Registry[Draw, DrawFacts] = Registry("draw", DrawFacts)
"""Each gives the values an arm starts from, before masking and rescaling (methods §5)."""

draw = DRAWS.register
