"""The small interface of weight draws: the origins that a draw may look at → the values an arm starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.registry import Registry

T = TypeVar("T")

State: TypeAlias = dict[str, Tensor]
"""A full state dict: every parameter and buffer by name."""

Source: TypeAlias = Callable[[], Mapping[str, Tensor]]


class Origins:
    """What a draw may look at; what it does not ask for is neither computed nor read.

    Parameters
    ----------
    initial, rewound, trained, redrawn : called when asked for; each gives a full state dict.
    masks : gives the arm's masks, which say what is kept and which parameters are prunable.
    generator : gives a generator, on the CPU, at the start of its stream; a draw asks for it once.

    Asking for what was not given raises InputError.

    >>> Origins(initial=lambda: {"fc.weight": torch.ones(1, 2)}).initial()
    {'fc.weight': tensor([[1., 1.]])}
    """

    def __init__(
        self,
        *,
        initial: Source | None = None,
        rewound: Source | None = None,
        trained: Source | None = None,
        redrawn: Source | None = None,
        masks: Callable[[], Masks] | None = None,
        generator: Callable[[], torch.Generator] | None = None,
    ) -> None:
        self._initial, self._rewound, self._trained, self._redrawn = initial, rewound, trained, redrawn
        self._masks, self._generator = masks, generator

    def initial(self) -> State:
        """W_0, the weights at initialisation."""
        return dict(_given(self._initial, "initial", "the weights at initialisation"))

    def rewound(self) -> State:
        """W_k, the weights after k steps of dense training."""
        return dict(_given(self._rewound, "rewound", "the weights at the rewind point"))

    def trained(self) -> State:
        """W_T, the weights at the end of training."""
        return dict(_given(self._trained, "trained", "the weights at the end of training"))

    def redrawn(self) -> State:
        """A fresh draw from the initial distribution."""
        return dict(_given(self._redrawn, "redrawn", "the weights drawn afresh"))

    def masks(self) -> Masks:
        """The arm's masks."""
        return _given(self._masks, "masks", "the arm's masks")

    def generator(self) -> torch.Generator:
        """The random generator, on the CPU."""
        return _given(self._generator, "generator", "a random generator")


def _given(source: Callable[[], T] | None, name: str, thing: str) -> T:
    if source is None:
        raise InputError(f"the draw looks at {thing}, not given", expected=f"Origins({name}=…)")
    return source()


Draw: TypeAlias = Callable[[Origins], State]

draw: Registry[Draw] = Registry("draw")
"""Gives the values an arm starts from, before masking and rescaling (methods §5).

Facts: ``drawn="afresh"`` where nothing of a ticket is in the weights, so that a rescaling may draw them anew;
``scale="initial"`` where their magnitudes are those of the initial distribution, not a ticket's.
"""
