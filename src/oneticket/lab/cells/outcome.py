"""Divergence: what is recorded of a training whose loss stopped being a finite number, and of all that rest on it."""

from __future__ import annotations

from typing import Any

from oneticket.lab.cells.description import ArmStart, Description, Round
from oneticket.lab.cells.store import Store
from oneticket.pruning import kept_count

_INHERITED = "a training it builds on diverged: "


def inherited_divergence(cell: Description, store: Store) -> str | None:
    """Why ``cell`` can't be trained: one that it builds on diverged, and left neither weights nor masks."""
    for parent in cell.parents:
        reason = store.figures(parent).get("diverged")
        if reason is not None:
            return _INHERITED + str(reason).removeprefix(_INHERITED)
    return None


def is_inherited(reason: str) -> bool:
    """Whether a cell was never trained, because one that it builds on has diverged."""
    return reason.startswith(_INHERITED)


def diverged_outcome(cell: Description, prunable: int, reason: str, *, validated: bool) -> dict[str, Any]:
    """The outcome of a cell that diverged, of whose network ``prunable`` weights could be pruned.

    It counts as guessing, 1 of its classes, so that an arm is not judged by those of its seeds alone that went well.
    It has no loss and left no network. Its density is the one that was asked for.
    """
    guessing = 1 / cell.network.classes
    kept = kept_count(_density(cell), prunable)
    tested = {"test_accuracy": guessing, "test_loss": None} if cell.test else {}
    return {
        "diverged": reason,
        "val_accuracy": guessing if validated else None,
        "best_epoch": None,
        "best_val_accuracy": None,
        "steps_to_converge": None,
        "density": kept / prunable,
        "kept": kept,
        "prunable": prunable,
        "collapsed": [],
        "bytes": None,
        "masked_nonzero": 0,
        "effective_density": None,
        "dead_units": None,
        **tested,
    }


def _density(cell: Description) -> float:
    if isinstance(cell.start, Round):
        return cell.start.ticket.density
    return cell.start.density if isinstance(cell.start, ArmStart) else 1.0
