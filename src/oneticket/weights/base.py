"""The interface of weight draws: a context → the values from which an arm starts."""

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
    """What a draw may use; each field is computed only when it is read.

    Parameters
    ----------
    initial, rewound, trained, redrawn : Callable[[], Mapping[str, Tensor]], optional
        Give the weights at initialisation W_0, after k steps of dense training W_k, at its end W_T, and a fresh draw
        from the initial distribution; each is a full state dict. They are read-only: a draw begins with a copy.
    masks : Callable[[], Masks], optional
        Gives the arm's masks, whose names are the prunable parameters.
    generator : Callable[[], torch.Generator], optional
        Gives a generator, on the CPU, at the start of its stream.

    Raises
    ------
    InputError
        When a field that was not given is read.

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
    """The registered facts of a draw.

    Parameters
    ----------
    drawn : str, optional
        ``afresh`` if the weights contain nothing of a ticket, so that a rescaling may draw them anew.
    scale : str
        ``initial`` if their magnitudes are those of the initial distribution, not of a ticket.
    head : str
        ``own`` if the draw gives the head, too, where an arm is trained on the data of its ticket.
    """

    drawn: Literal["afresh"] | None = None
    scale: Literal["ticket", "initial"] = "ticket"
    head: Literal["fresh", "own"] = "fresh"


DRAWS: Registry[Draw, DrawFacts] = Registry("draw", DrawFacts)
"""Each gives the values from which an arm starts, before masking and rescaling (methods §5)."""

draw = DRAWS.register
