"""The small interface of engines: take a cell, give a future."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

import msgspec

from oneticket.errors import OneticketError
from oneticket.lab.cell import Setting
from oneticket.lab.description import Description
from oneticket.registry import Registry


class Task(msgspec.Struct, frozen=True):
    """One cell to compute, complete: it can be sent to another process or machine as JSON."""

    cell: Description
    setting: Setting


class Progress(msgspec.Struct, frozen=True):
    """Where a running cell is, and how much memory of its own it has taken at most (bytes; 0 where not known)."""

    cell: str
    epoch: int
    epochs: int
    val_accuracy: float | None
    bytes: int = 0


class Done(msgspec.Struct, frozen=True):
    """How a cell ended: its accuracies, or that it was ``cached`` because another process had finished it.

    ``diverged`` says why its training could not go on to the end.
    """

    cached: bool = False
    test_accuracy: float | None = None
    val_accuracy: float | None = None
    seconds: float = 0.0
    diverged: str | None = None


class CellFailed(OneticketError):
    """The cell cannot be computed; trying again would give the same."""


class OutOfMemory(OneticketError):
    """There was not enough memory for the cell beside what else was running."""


class WorkerDied(OneticketError):
    """The process that computed the cell ended without a word."""


class DiskFull(OneticketError):
    """The store's disk is full: no cell can be finished."""


class Engine(Protocol):
    """Computes cells; ``submit`` returns at once.

    The future gives :class:`Done`, or raises CellFailed, OutOfMemory, WorkerDied, DiskFull, or Busy when another
    process is at that cell.
    """

    def submit(self, task: Task, on_progress: Callable[[Progress], None]) -> Future[Done]:
        """Start computing a cell."""
        ...

    def close(self) -> None:
        """End whatever is still running; a cell that is ended can be resumed."""
        ...


engine: Registry[Callable[[], Engine]] = Registry("engine")
"""Engines by name."""
