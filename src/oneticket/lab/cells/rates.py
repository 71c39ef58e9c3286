"""Rates: how the learning rates of a cell follow from its recipe, where they are not those of the recipe's schedule."""

from __future__ import annotations

import msgspec

from oneticket.lab.cells.description import ArmStart, CellStart, PretrainingStart, Rates, Round
from oneticket.methods import METHODS, PRETRAININGS
from oneticket.training import Recipe


def rates_of(start: CellStart, recipe: Recipe) -> Rates | msgspec.UnsetType:
    """What the description of a cell says about its learning rates.

    Returns
    -------
    ``last-tenth`` where fine-tuning has the mean rate of the recipe's last tenth, since its schedule falls to the end;
    ``each-part`` where each part of the training has the recipe's moments at the same fractions. Unset where the rates
    are those that a cell without the word has always had: the recipe's, its last one, or, in parts, a schedule without
    moments.
    """
    if fine_tunes(start) and not recipe.schedule.holds:
        return "last-tenth"
    in_parts = isinstance(start, PretrainingStart) and PRETRAININGS.entry(start.task).facts.parts
    if in_parts and recipe.epochs > 1 and _has_moments(recipe):  # a recipe of one epoch is that of every part
        return "each-part"
    return msgspec.UNSET


def fine_tunes(start: CellStart) -> bool:
    """Whether a cell is trained at the one rate of fine-tuning."""
    if isinstance(start, ArmStart):
        return METHODS.entry(start.method).facts.lr == "last"
    return isinstance(start, Round) and start.ticket.search.method == "fine-tune"


def _has_moments(recipe: Recipe) -> bool:
    """Whether the schedule or the warm-up of a recipe counts epochs or steps, so that a part must scale it."""
    longer = recipe.scaled(2 * recipe.epochs, steps_per_epoch=1)
    return longer != msgspec.structs.replace(recipe, epochs=longer.epochs)
