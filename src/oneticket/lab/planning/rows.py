"""Rows of the table of results: what places a row, and what the plan knows of it before its cell has run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class RowKey(msgspec.Struct, frozen=True):
    """The place of a row in the table: what rows that differ in seed and learning rate have in common.

    ``density_asked`` is a fraction of the weights; a row without a source has empty words there.
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
        """The place of a row that was read from a store; a column that an older store lacks is None."""
        return RowKey(*(row.get(field) for field in RowKey.__struct_fields__))  # type: ignore[arg-type]


class Row(RowKey, frozen=True, kw_only=True):
    """What a row of the tidy table knows before its cell has run.

    ``lr`` is one learning rate of several that the arm is tried with, None where there is only the recipe's.
    """

    round: int
    seed: int
    search_trainings: int
    lr: float | None
    cell: str
