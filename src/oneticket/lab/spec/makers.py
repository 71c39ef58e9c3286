"""Makers: masks that a training of their own gives, which another arm then uses."""

from __future__ import annotations

from typing import NamedTuple

from oneticket.methods import METHODS

LARGEST_UPDATE = "largest-update"
"""The mask of the weights that fine-tuning moves furthest."""


class Maker(NamedTuple):
    """How a mask is made.

    Parameters
    ----------
    method : str
        The method of the training that gives it; it begins with all weights.
    weights : str
        The weights with which that training begins, a registered draw.
    criterion : str, optional
        What chooses the mask from the trained weights, where the method makes none itself.
    """

    method: str
    weights: str
    criterion: str | None = None


def makers() -> dict[str, Maker]:
    """Every maker by its word: the methods that search a mask under weights that stay, and ``largest-update``."""
    searches = {e.name: Maker(e.name, e.facts.searches) for e in METHODS.entries() if e.facts.searches is not None}
    return searches | {LARGEST_UPDATE: Maker("fine-tune", "trained", criterion="movement")}


def maker_of(mask: str) -> Maker | None:
    """The maker of an arm's mask; None where no training of its own gives it."""
    return makers().get(mask)
