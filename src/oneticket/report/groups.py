"""The groups of a table of results: rows that differ only in their seed."""

from __future__ import annotations

from typing import NamedTuple

NONE = "—"


class Section(NamedTuple):
    """One target of one experiment: a figure and a table of the report."""

    experiment: str
    model: str
    target: str
    target_recipe: str


class Group(NamedTuple):
    """What rows that differ only in their seed have in common."""

    experiment: str
    model: str
    source: str
    source_recipe: str
    target: str
    target_recipe: str
    arm: str
    rescale: str
    density_asked: float | None

    @property
    def section(self) -> Section:
        """The target this belongs to."""
        return Section(self.experiment, self.model, self.target, self.target_recipe)


def at(name: str, recipe: str) -> str:
    """A data set with its recipe, ``fashion@sgd``; a dash where both are empty."""
    return f"{name}@{recipe}" if name and recipe else name or NONE
