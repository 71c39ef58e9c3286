"""Own code: the parts of a cell that are not oneticket's, by what registered them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oneticket.lab.cells.description import ArmStart, CellStart, PretrainingStart, Round, TicketRef
from oneticket.methods import METHODS, PRETRAININGS
from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA
from oneticket.registry import Registry
from oneticket.trust.importing import digest_of_entry
from oneticket.weights import DRAWS, NORMS, RESCALINGS

Kinds = tuple[Registry[Any, Any], ...]


class OwnCode:
    """Digests of the code of what cells name; each name is looked up once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str | None] = {}

    def of(self, start: CellStart) -> dict[str, str]:
        """For every criterion, control, draw … that a cell uses and that is not a part of oneticket: its code."""
        found = {}
        for kinds, word in _named(start):
            for registry in kinds:
                digest = self._digest(registry, word)
                if digest is not None:
                    found[f"{registry.kind} {word}"] = digest
        return found

    def _digest(self, registry: Registry[Any, Any], word: str) -> str | None:
        key = registry.kind, word
        if key not in self._known:
            self._known[key] = digest_of_entry(registry.entry(word)) if word in registry else None
        return self._known[key]


def _named(start: CellStart) -> Iterator[tuple[Kinds, str]]:
    """Every name in the start of a cell, with the kinds that it may be of."""
    if isinstance(start, PretrainingStart):
        yield (PRETRAININGS,), start.task
    if isinstance(start, Round):
        yield from _named_by(start.ticket)
    if isinstance(start, ArmStart):
        yield (CONTROLS, CRITERIA), start.mask
        yield (ALLOCATIONS,), start.allocation
        yield (DRAWS, PRETRAININGS), start.weights
        yield (NORMS,), start.norms
        yield (RESCALINGS,), start.rescale
        yield (METHODS,), start.method
        for ticket in (start.ticket, start.values):
            yield from _named_by(ticket) if ticket is not None else ()


def _named_by(ticket: TicketRef) -> Iterator[tuple[Kinds, str]]:
    yield (CRITERIA,), ticket.search.criterion
    yield (ALLOCATIONS,), ticket.search.allocation
    yield (RESCALINGS,), ticket.search.rescale
