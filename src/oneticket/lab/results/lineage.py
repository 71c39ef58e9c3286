"""Lineage: the cells that a network builds on, and what all of them cost together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oneticket.errors import InputError
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.rows import RowKey

SUMS = {"total_steps": "steps", "total_samples": "samples", "total_masked_flops": "masked_flops"}
"""The columns of sums over a network and all that it builds on, each with the figure of a cell that is summed."""

Replicate = tuple[RowKey, Any, Any, str]
"""What rows share that differ only in their learning rate: the key of the row, its round and its seed.

A row without a grid of rates shares it with no other: its cell stands in it, too.
"""


def replicate(row: Mapping[str, Any]) -> Replicate:
    """The key that rows share if they differ only in their learning rate."""
    return RowKey.of(row), row.get("round"), row.get("seed"), row["cell"] if row.get("lr") is None else ""


def trials(rows: Iterable[Mapping[str, Any]]) -> dict[Replicate, frozenset[str]]:
    """For each network, the cells of its replicate with every learning rate that was tried, its own included."""
    tried: dict[Replicate, set[str]] = {}
    for row in rows:
        tried.setdefault(replicate(row), set()).add(row["cell"])
    return {key: frozenset(cells) for key, cells in tried.items()}


class Lineage:
    """The figures of a store's cells and the cells that they build on, each read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._accounts: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {}
        self._ancestors: dict[str, frozenset[str]] = {}

    def figures(self, cell: str) -> dict[str, Any]:
        """Outcome and cost of a finished cell."""
        return self._account(cell)[0]

    def ancestors(self, cell: str) -> frozenset[str]:
        """The parents of a cell, their parents, and so on."""
        ahead = [cell]
        while ahead:
            parents = self._account(ahead[-1])[1]
            unknown = [parent for parent in parents if parent not in self._ancestors]
            if unknown:
                ahead += unknown
                continue
            known = [frozenset(parents), *(self._ancestors[parent] for parent in parents)]
            self._ancestors[ahead.pop()] = frozenset().union(*known)
        return self._ancestors[cell]

    def sums(self, cells: Iterable[str]) -> dict[str, int | None]:
        """The columns of :data:`SUMS` over ``cells`` and all that they build on, each cell once.

        None where one of them is missing from the store or damaged: a sum without it would be too small.
        """
        whole: set[str] = set()
        for cell in cells:
            if not self._is_whole(cell):
                return dict.fromkeys(SUMS)
            whole |= {cell, *self.ancestors(cell)}
        figures: Sequence[dict[str, Any]] = [self.figures(cell) for cell in whole]
        return {column: sum(int(known[figure]) for known in figures) for column, figure in SUMS.items()}

    def _account(self, cell: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        if cell not in self._accounts:
            self._accounts[cell] = self._store.account(cell)
        return self._accounts[cell]

    def _is_whole(self, cell: str) -> bool:
        """Whether all that a cell builds on is in the store."""
        ahead, met = [cell], {cell}
        while ahead:
            name = ahead.pop()
            if name in self._ancestors:
                continue
            try:
                new = set(self._account(name)[1]) - met
            except InputError:
                return False
            met |= new
            ahead += new
        return True
