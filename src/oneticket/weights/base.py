"""The small interface of weight draws: the origins that a draw may look at → the values an arm starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from oneticket.errors import InputError
from oneticket.registry import Registry

State: TypeAlias = dict[str, Tensor]
"""A full state dict: every parameter and buffer by name."""

Source: TypeAlias = Callable[[], Mapping[str, Tensor]]


class Origins:
    """The weights that a draw may look at; what it does not ask for is neither computed nor read.

    Parameters
    ----------
    initial, rewound, trained, redrawn : called when asked for; each gives a full state dict.

    Asking for what was not given raises InputError.

    >>> import torch
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
    ) -> None:
        self._sources = {"initial": initial, "rewound": rewound, "trained": trained, "redrawn": redrawn}

    def initial(self) -> State:
        """W_0, the weights at initialisation."""
        return self._state("initial", "at initialisation")

    def rewound(self) -> State:
        """W_k, the weights after k steps of dense training."""
        return self._state("rewound", "at the rewind point")

    def trained(self) -> State:
        """W_T, the weights at the end of training."""
        return self._state("trained", "at the end of training")

    def redrawn(self) -> State:
        """A fresh draw from the initial distribution."""
        return self._state("redrawn", "drawn afresh")

    def _state(self, name: str, when: str) -> State:
        source = self._sources[name]
        if source is None:
            raise InputError(
                f"the draw looks at the weights {when}, which were not given", expected=f"Origins({name}=…)"
            )
        return dict(source())


Draw: TypeAlias = Callable[[Origins], State]

draw: Registry[Draw] = Registry("draw")
"""Gives the values an arm starts from, before masking and rescaling (methods §5)."""
