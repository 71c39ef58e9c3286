"""Capacity: how many cells this machine can run side by side, by its cores and its memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from oneticket.lab.cells.description import Description

GIB = 2**30
UNKNOWN = 4 * GIB  # assumed need of a cell until a cell of its kind has reported its own
SMALLEST = GIB // 4  # the least that a worker takes
MARGIN = 1.25  # factor from the reported need of a cell to the memory reserved for the next of its kind

_GROUPS = Path("/sys/fs/cgroup")


class Workers(msgspec.Struct, frozen=True):
    """How many cells to run side by side by default, and why."""

    count: int
    reason: str


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that this process can still allocate, on the machine and in its control groups; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    return min([machine, *_left_in_groups()])


def default_workers() -> Workers:
    """One worker per core, or as many as memory holds of the smallest cells; larger cells wait for memory."""
    by_core, free = cores(), free_memory()
    if free is None:
        return Workers(by_core, "one per core; the free memory is unknown here")
    by_memory = max(free // SMALLEST, 1)
    told = f"{free / GIB:.1f} GiB of memory are free"
    if by_memory < by_core:
        return Workers(by_memory, f"{told}, at least {SMALLEST / GIB:g} GiB per cell, for {by_core} cores")
    return Workers(by_core, f"one per core; {told}, and a cell starts only when it fits")


def _left_in_groups() -> list[int]:
    """The bytes that the limit of each enclosing control group leaves; file caches count as free."""
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    left = []
    place = _GROUPS / own.strip("/")
    for group in (place, *place.parents):
        try:
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                used = int((group / "memory.current").read_text())
                rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
                cached = sum(int(value) for key, value in rows if key in ("active_file", "inactive_file"))
                left.append(max(int(limit) - used + cached, 0))
        except (OSError, ValueError):
            pass
        if group == _GROUPS:
            break
    return left


class Memory:
    """Whether one more cell fits, from the memory that running cells and earlier cells of its kind have reported.

    A kind is a network with a recipe. The first cell of an unknown kind is assumed to be large; others start beside it
    once it has reported its need.
    """

    def __init__(self, cells: Mapping[str, Description], available: Callable[[], int | None] | None = None) -> None:
        self._cells = cells
        self._available = available or free_memory
        self._told: dict[tuple[int, int], int] = {}
        self._now: dict[str, int] = {}

    def heard(self, cell: str, own: int) -> None:
        """Record that a running cell has taken at most ``own`` bytes so far."""
        self._now[cell] = own
        kind = self._kind(cell)
        self._told[kind] = max(own, self._told.get(kind, 0))

    def ended(self, cell: str) -> None:
        """Record that a cell has returned its memory."""
        self._now.pop(cell, None)

    def lacks(self, cell: str, running: Collection[str]) -> str | None:
        """Why ``cell`` cannot run beside the ``running`` ones; None when it can. Alone, any cell may try."""
        free = self._available() if running else None
        if free is None:
            return None
        # Memory that running cells will still take is not free.
        owed = sum(max(self._need(other) - self._now.get(other, 0), 0) for other in running)
        if self._need(cell) + owed <= free:
            return None
        own = f"about {self._need(cell) / GIB:.2g} GiB" if self._kind(cell) in self._told else "an unknown amount"
        return f"another cell needs {own} of memory, and {max(free - owed, 0) / GIB:.2g} GiB are free"

    def _kind(self, cell: str) -> tuple[int, int]:
        # All cells of a plan share the same network and recipe objects, which the plan keeps alive.
        description = self._cells[cell]
        return id(description.network), id(description.recipe)

    def _need(self, cell: str) -> int:
        told = self._told.get(self._kind(cell))
        return UNKNOWN if told is None else round(MARGIN * told)
