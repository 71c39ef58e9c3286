"""Lineage: the cells that a network builds on, and what all of them cost together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from oneticket.errors import InputError
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.rows import RowKey

SUMS = ("total_steps", "total_samples", "total_masked_flops")
"""The columns of sums over a network and all that it builds on."""

Sums = tuple[int, int, int]
"""Steps, samples and mask-aware FLOPs."""

Replicate = tuple[RowKey, Any, Any, str]
"""What rows share that differ only in what is tuned: the key of the row, its round and its seed.

A row of which nothing is tuned shares it with no other: its cell stands in it, too.
"""

Setting = tuple[str, float | None]
"""What is tuned, as text, and the learning rate, which tables of earlier versions have alone."""


def setting_of(row: Mapping[str, Any]) -> Setting | None:
    """The setting that a row has of those that were tried; None where nothing is tuned."""
    text, lr = row.get("tuned") or "", row.get("lr")
    return (text, lr) if text or lr is not None else None


def replicate(row: Mapping[str, Any]) -> Replicate:
    """The key that rows share if they differ only in what is tuned."""
    return RowKey.of(row), row.get("round"), row.get("seed"), row["cell"] if setting_of(row) is None else ""


def trials(rows: Iterable[Mapping[str, Any]]) -> dict[Replicate, frozenset[str]]:
    """For each network, the cells of its replicate with every setting that was tried, its own included."""
    tried: dict[Replicate, set[str]] = {}
    for row in rows:
        tried.setdefault(replicate(row), set()).add(row["cell"])
    return {key: frozenset(cells) for key, cells in tried.items()}


class Lineage:
    """The figures of a store's cells and the cells that they build on, each read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._own: dict[str, tuple[Sums, tuple[str, ...]]] = {}
        self._ancestors: dict[str, frozenset[str]] = {}
        self._totals: dict[str, Sums | None] = {}

    def figures(self, cell: str) -> dict[str, Any]:
        """Outcome and cost of a finished cell."""
        figures, parents = self._store.account(cell)
        try:
            self._own[cell] = (figures["steps"], figures["samples"], figures["masked_flops"]), parents
        except KeyError as missing:  # a record without a digest, as those of version 1, can lack anything
            raise self._store.damaged(self._store.folder(cell) / "cell.json", f"it lacks {missing}") from None
        return figures

    def ancestors(self, cell: str) -> frozenset[str]:
        """The parents of a cell, their parents, and so on."""
        ahead = [cell]
        while ahead:
            parents = self._of(ahead[-1])[1]
            unknown = [parent for parent in parents if parent not in self._ancestors]
            if unknown:
                ahead += unknown
                continue
            known = [frozenset(parents), *(self._ancestors[parent] for parent in parents)]
            self._ancestors[ahead.pop()] = frozenset().union(*known)
        return self._ancestors[cell]

    def sums(self, cells: Collection[str]) -> Sums | None:
        """The columns :data:`SUMS` over ``cells`` and all that they build on, each cell once.

        None where one of them is missing from the store or damaged: a sum without it would be too small.
        """
        totals = [self._total(cell) for cell in cells]
        if None in totals or len(totals) == 1:
            return None if None in totals else totals[0]
        return self._sum({name for cell in cells for name in (cell, *self.ancestors(cell))})

    def _total(self, cell: str) -> Sums | None:
        """The sums over a cell and its ancestors; None where one of them is missing or damaged."""
        ahead = [cell]
        while ahead:
            name = ahead[-1]
            try:
                own, parents = self._of(name)
            except InputError:
                self._totals[ahead.pop()] = None
                continue
            unknown = [parent for parent in parents if parent not in self._totals]
            if unknown:
                ahead += unknown
                continue
            self._totals[ahead.pop()] = self._on_top(name, own, parents) if parents else own
        return self._totals[cell]

    def _on_top(self, cell: str, own: Sums, parents: Sequence[str]) -> Sums | None:
        """The sums of a cell from those of its parents; where the last builds on all others, only its own is added."""
        *others, last = parents
        below = self._totals[last]
        if below is None or any(self._totals[parent] is None for parent in others):
            return None
        if self.ancestors(last).issuperset(others):
            return own[0] + below[0], own[1] + below[1], own[2] + below[2]
        return self._sum({cell, *self.ancestors(cell)})

    def _sum(self, cells: Iterable[str]) -> Sums:
        steps, samples, flops = zip(*(self._of(cell)[0] for cell in cells), strict=True)
        return sum(steps), sum(samples), sum(flops)

    def _of(self, cell: str) -> tuple[Sums, tuple[str, ...]]:
        if cell not in self._own:
            self.figures(cell)
        return self._own[cell]
