"""Descriptions: everything that identifies the computation of a cell, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec

from oneticket.data import DataRef
from oneticket.identity import digest
from oneticket.lab.arms import Method
from oneticket.search import Search
from oneticket.training import Recipe

SCHEMA = 1


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is built: factory, options, digest of the code of a user's own, input (C, H, W), classes."""

    name: str
    options: dict[str, Any]
    code: str | None
    input: tuple[int, int, int]
    classes: int
    head: str
    prune_head: bool
    prunable: tuple[str, ...] | None


class TicketRef(msgspec.Struct, frozen=True, kw_only=True):
    """The ticket of round ``round``: pruned from cell ``previous``, rewound to what cell ``dense`` kept."""

    dense: str
    previous: str
    round: int
    density: float
    search: Search


class Initial(msgspec.Struct, frozen=True, tag_field="kind", tag="initial"):
    """Dense, from W_0."""


class Round(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="round"):
    """A round of a search: the ticket, trained on by the search's method."""

    ticket: TicketRef


class ArmStart(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="arm"):
    """An arm: control of the masks, draw of the weights, rescaling, method; ``ticket`` only where it looks at one."""

    mask: str
    weights: str
    rescale: str
    method: Method
    density: float
    ticket: TicketRef | None
    rewind: str


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """One training of one network, told completely; its digest is the name of the cell."""

    schema: int = SCHEMA
    network: Network
    data: DataRef
    recipe: Recipe
    seed: int
    start: Initial | Round | ArmStart
    snapshots: tuple[str, ...] = ()
    test: bool = True

    @property
    def identity(self) -> str:
        """SHA-256 of the canonical JSON of the description."""
        return digest(msgspec.to_builtins(self))

    @property
    def parents(self) -> tuple[str, ...]:
        """The cells whose files this one reads."""
        ticket = None if isinstance(self.start, Initial) else self.start.ticket
        if ticket is None:
            return ()
        return (ticket.dense,) if ticket.dense == ticket.previous else (ticket.dense, ticket.previous)
