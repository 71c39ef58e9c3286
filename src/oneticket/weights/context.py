"""The small interface of rescalings: weights, masks and a context → weights of another scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.registry import Registry
from oneticket.weights.base import State, draw

T = TypeVar("T")

Masked: TypeAlias = tuple[Mapping[str, Tensor], Masks]
"""Weights of the prunable tensors and the masks that say which of them are kept."""


class RescalingContext:
    """What a rescaling may know beyond weights and masks; what it does not ask for is not computed.

    Parameters
    ----------
    weights : the draw that the weights come from, by its registered name.
    generator : gives the generator, on the CPU, of weights that are drawn anew.
    network : gives a module that holds the arm's full masked state, to be used up as scratch.
    batch : gives inputs of the target's training split, as the network takes them.
    ticket : gives W_k and the masks of the ticket.
    random : gives the weights and the masks of the paper's random ticket: a fresh draw on the ticket's masks permuted
        over the whole network.

    Asking for what was not given raises InputError, and so does an unknown draw.

    >>> RescalingContext("re-drawn").redrawn, RescalingContext("sign-constant").redrawn
    (True, False)
    """

    def __init__(
        self,
        weights: str,
        *,
        generator: Callable[[], torch.Generator] | None = None,
        network: Callable[[], nn.Module] | None = None,
        batch: Callable[[], Tensor] | None = None,
        ticket: Callable[[], Masked] | None = None,
        random: Callable[[], Masked] | None = None,
    ) -> None:
        self._facts = draw.entry(weights).facts
        self._generator, self._network, self._batch = generator, network, batch
        self._ticket, self._random = ticket, random

    @property
    def redrawn(self) -> bool:
        """Whether the weights are a fresh draw, which may be drawn anew; others may only be multiplied."""
        return self._facts.get("drawn") == "afresh"

    @property
    def at_initial_scale(self) -> bool:
        """Whether their magnitudes are those of the initial distribution, and not a ticket's."""
        return self._facts.get("scale") == "initial"

    @cached_property
    def generator(self) -> torch.Generator:
        """The random generator, on the CPU."""
        return _given(self._generator, "generator", "a random generator")

    def network(self) -> nn.Module:
        """A module that holds the arm's state and may be changed."""
        return _given(self._network, "network", "the network")

    def layer(self, name: str) -> nn.Module | None:
        """The layer that the weight ``name`` belongs to, to be looked at; None where no network was given."""
        return self._looked_at.get_submodule(name.rpartition(".")[0]) if self._looked_at is not None else None

    @cached_property
    def _looked_at(self) -> nn.Module | None:
        return self._network() if self._network is not None else None

    def batch(self) -> Tensor:
        """Inputs of the target's training split."""
        return _given(self._batch, "batch", "a batch")

    def ticket(self) -> Masked:
        """W_k and the masks of the ticket."""
        return _given(self._ticket, "ticket", "the ticket")

    def random(self) -> Masked:
        """Weights and masks of the random ticket."""
        return _given(self._random, "random", "the random ticket")


def _given(source: Callable[[], T] | None, name: str, thing: str) -> T:
    if source is None:
        raise InputError(f"the rescaling looks at {thing}, not given", expected=f"RescalingContext({name}=…)")
    return source()


Rescaling: TypeAlias = Callable[[Mapping[str, Tensor], Masks, RescalingContext], State]

rescaling: Registry[Rescaling] = Registry("rescaling")
"""Masked weights of the prunable tensors → their rescaled values: same names, shapes, dtypes, and still masked.

Facts: ``needs="batch"`` where data and the network are looked at, ``needs="ticket"`` where a ticket and its random twin
are; ``rates`` where a learning rate of its own belongs to each layer (:func:`rate_factors`); ``again="compounds"``
where weights that are rescaled already would be rescaled once more.
"""


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """``weight`` with what is not kept at exactly 0.0; a copy."""
    # Not a product: that would leave −0.0 where a negative weight was masked.
    return weight.detach().masked_fill(~mask.to(weight.device), 0.0)
