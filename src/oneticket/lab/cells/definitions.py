"""Definitions: names that mean another computation than they did in earlier cells, which must not be taken for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from oneticket.lab.cells.description import ArmStart, Description, Round, TicketRef
from oneticket.models import MODELS
from oneticket.weights import DRAWS


class _Correction(NamedTuple):
    """A definition that was put right: its name, its number now, and the cells whose computation that changes.

    ``concerns`` takes the description of a cell and whether its network has normalisation layers.
    """

    name: str
    number: int
    concerns: Callable[[Description, bool], bool]


def corrected(cell: Description, *, normalised: bool) -> dict[str, int]:
    """The corrected definitions that ``cell`` follows: name → number.

    Empty for a cell that is computed as it always was, so that it keeps its name. ``normalised`` says whether its
    network has normalisation layers.
    """
    return {c.name: c.number for c in _CORRECTIONS if c.concerns(cell, normalised)}


def _smart(cell: Description, _: bool) -> bool:
    """2: L counts the head where it is not pruned; before, only the layers that are."""
    network, words = cell.network, set()
    for ticket in _tickets(cell):
        if ticket.round:  # that of round 0 keeps everything
            words.add(ticket.search.allocation)
    if isinstance(cell.start, ArmStart):
        words |= {cell.start.mask, cell.start.allocation}
    pruned = network.prune_head if network.prunable is None else f"{network.head}.weight" in network.prunable
    return "smart" in words and not pruned


def _aligned(cell: Description, normalised: bool) -> bool:
    """2: channels are compared behind their normalisation, whose γ may be negative; before, in front of it."""
    return isinstance(cell.start, ArmStart) and cell.start.mask == "aligned" and normalised


def _natural_corrected(cell: Description, normalised: bool) -> bool:
    """2: weights into units whose γ is about zero count, too."""
    return isinstance(cell.start, ArmStart) and cell.start.mask == "natural-corrected" and normalised


def _fan_in(cell: Description, _: bool) -> bool:
    """2: a fresh draw that is not N(0, 2/fan-in) keeps its own scale."""
    start = cell.start
    if not isinstance(start, ArmStart) or start.rescale != "fan-in" or start.weights not in DRAWS:
        return False
    return DRAWS.entry(start.weights).facts.drawn == "afresh" and not is_he_normal(cell)


def _smup(cell: Description, _: bool) -> bool:
    """2: AdamW decays every layer alike; before, by the factor of its rate."""
    if cell.recipe.optimizer != "adamw" or not cell.recipe.weight_decay:
        return False
    if isinstance(cell.start, ArmStart):
        return cell.start.rescale == "smup"
    return isinstance(cell.start, Round) and cell.start.ticket.search.rescale == "smup"


def is_he_normal(cell: Description) -> bool:
    """Whether the arm's weights are a fresh draw from N(0, 2/fan-in): that of most built-in models."""
    built_in = cell.network.code is None and cell.network.name in MODELS
    if not built_in or MODELS.entry(cell.network.name).facts.draws != "he-normal":
        return False
    return isinstance(cell.start, ArmStart) and cell.start.weights == "re-drawn"


def _tickets(cell: Description) -> Iterator[TicketRef]:
    if isinstance(cell.start, Round):
        yield cell.start.ticket
    if isinstance(cell.start, ArmStart):
        yield from (ticket for ticket in (cell.start.ticket, cell.start.values) if ticket is not None)


_CORRECTIONS = (
    _Correction("smart", 2, _smart),
    _Correction("aligned", 2, _aligned),
    _Correction("natural-corrected", 2, _natural_corrected),
    _Correction("fan-in", 2, _fan_in),
    _Correction("smup", 2, _smup),
)
