"""The order in which the cells of a replicate are computed."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from oneticket.data import DataRef
from oneticket.lab.cells.description import Description


def by_data(cells: Mapping[str, Description]) -> dict[str, Description]:
    """The cells of a replicate in the order to compute them: parents first, one data set after the other.

    The next data set begins only when no cell of the present one can be computed. So the images of a source stay in
    memory during its search, and those of a target during its arms. Otherwise the order is that of ``cells``. Parents
    outside ``cells`` count as done.
    """
    names = list(cells)
    number = {identity: place for place, identity in enumerate(names)}
    children: dict[str, list[str]] = {}
    lacking: dict[str, int] = {}
    for identity, cell in cells.items():
        parents = [parent for parent in cell.parents if parent in cells]
        lacking[identity] = len(parents)
        for parent in parents:
            children.setdefault(parent, []).append(identity)
    ready: dict[DataRef, list[int]] = {}  # a heap of places for each data set

    def release(identity: str) -> None:
        heapq.heappush(ready.setdefault(cells[identity].data, []), number[identity])

    for identity in names:
        if not lacking[identity]:
            release(identity)
    ordered: dict[str, Description] = {}
    while ready:
        data = min(ready, key=lambda ref: ready[ref][0])
        while ready[data]:
            identity = names[heapq.heappop(ready[data])]
            ordered[identity] = cells[identity]
            for child in children.get(identity, ()):
                lacking[child] -= 1
                if not lacking[child]:
                    release(child)
        del ready[data]
    return ordered
