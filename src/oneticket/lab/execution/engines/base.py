"""The interface of engines: take a cell, return a future."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

import msgspec

from oneticket.errors import OneticketError
from oneticket.lab.cells.description import Description
from oneticket.lab.cells.run import Workplace
from oneticket.registry import NoFacts, Registry

STACK = signal.SIGUSR2
"""The signal with which a worker is asked to write the stacks of its threads."""


class Task(msgspec.Struct, frozen=True):
    """One cell to compute, complete: it can be sent to another process or machine as JSON."""

    cell: Description
    workplace: Workplace


class Progress(msgspec.Struct, frozen=True):
    """The progress of a running cell, and the most memory of its own that it has taken (bytes; 0 if unknown)."""

    cell: str
    epoch: int
    epochs: int
    val_accuracy: float | None
    bytes: int = 0


class Done(msgspec.Struct, frozen=True):
    """How a cell ended: its accuracies, or that it was ``cached`` because another process had finished it.

    ``diverged`` says why its training could not finish. ``plain`` gives for each layer that took the plain path the
    reason; the empty name stands for the network as a whole.
    """

    cached: bool = False
    test_accuracy: float | None = None
    val_accuracy: float | None = None
    seconds: float = 0.0
    diverged: str | None = None
    plain: dict[str, str] = {}


class CellFailed(OneticketError):
    """The cell cannot be computed, and trying again would not help."""


class OutOfMemory(OneticketError):
    """There was not enough memory for the cell beside the other running processes."""


class WorkerDied(OneticketError):
    """The process that computed the cell ended without a word."""


class Crashed(WorkerDied):
    """The process that computed the cell crashed in native code with the signal ``number``.

    ``stack`` is the file with its stacks, None if there is no such file.
    """

    def __init__(self, network: str, number: int, stack: str | None = None) -> None:
        super().__init__(network, number, stack)  # all arguments, so that it can be pickled
        self.network, self.number, self.stack = network, number, stack

    def __str__(self) -> str:
        where = f"; its stack is in {self.stack}" if self.stack else ""
        return (
            f"crashed in native code (signal {self.number}, {signal.Signals(self.number).name}) "
            f"while training {self.network}{where}; try --layout contiguous or --threads 1"
        )


class Stalled(WorkerDied):
    """The process that computed the cell did not advance for ``seconds``, and was ended.

    ``stopped`` says that it had been stopped from outside. ``stack`` is the file with its stacks, None without one.
    """

    def __init__(self, seconds: float, stopped: bool = False, stack: str | None = None) -> None:
        super().__init__(seconds, stopped, stack)
        self.seconds, self.stopped, self.stack = seconds, stopped, stack

    def __str__(self) -> str:
        why = "its process was stopped by a signal" if self.stopped else "its process was alive"
        where = f"; its stack is in {self.stack}" if self.stack else ""
        return f"no step was done in {self.seconds:.0f} s, though {why}{where}"


class DiskFull(OneticketError):
    """The store's disk is full: no cell can be finished."""


class Engine(Protocol):
    """Computes cells; ``submit`` returns at once.

    The future gives :class:`Done`, or raises CellFailed, OutOfMemory, WorkerDied (or a subclass: Crashed, Stalled),
    DiskFull, or Busy when another process is computing that cell.
    """

    def submit(self, task: Task, on_progress: Callable[[Progress], None]) -> Future[Done]:
        """Start computing a cell."""
        ...

    def close(self) -> None:
        """End the cells that are still running; each can be resumed."""
        ...


ENGINES: Registry[Callable[[], Engine], NoFacts] = Registry("engine", NoFacts)
"""Engines by name."""

engine = ENGINES.register
