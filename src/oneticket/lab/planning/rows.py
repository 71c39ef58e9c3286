"""Rows of the table of results: the key of a row, and the columns that the plan knows before its cell has run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class RowKey(msgspec.Struct, frozen=True):
    """The key of a row in the table: the columns that rows share if they differ only in seed and in what is tuned.

    ``density_asked`` is a fraction of the weights; in a row without a source, its columns are empty strings.
    """

    experiment: str
    model: str
    source: str
    source_recipe: str
    target: str
    target_recipe: str
    arm: str
    rescale: str
    density_asked: float

    @staticmethod
    def of(row: Mapping[str, Any]) -> RowKey:
        """The key of a row that was read from a store; a column that an older store lacks is None."""
        return RowKey(*(row.get(field) for field in RowKey.__struct_fields__))  # type: ignore[arg-type]


class Role(msgspec.Struct, frozen=True):
    """A source or a target: a data set with a recipe."""

    data_name: str
    recipe_name: str

    def __str__(self) -> str:
        return f"{self.data_name}@{self.recipe_name}"


class Row(RowKey, frozen=True, kw_only=True):
    """The columns of a row of the tidy table that are known before its cell has run.

    ``lr`` is one of several learning rates that the arm is tried with, or None if only the recipe's is used. ``tuned``
    is the setting that the row has of several, ``lr`` included, ``trials`` their number, and ``trials_at_edge`` the
    keys whose value is the least or greatest that is tried; empty, None and empty where the grid tunes nothing.
    ``budget`` is that of its grid, and ``own_steps`` the optimiser steps of its training on the target, with those that
    its weights have behind them if they are W_k.
    """

    round: int
    seed: int
    search_trainings: int
    lr: float | None
    cell: str
    budget: str
    own_steps: int
    tuned: str = ""
    trials: int | None = None
    trials_at_edge: str = ""
