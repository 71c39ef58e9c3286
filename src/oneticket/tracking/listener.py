"""The listener that hands finished cells to trackers, in a thread of its own: a tracker never delays or ends a run."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from oneticket.lab.cells.store import Store
from oneticket.lab.execution.events import RunListener
from oneticket.tracking.base import Tracker, read_cell

if TYPE_CHECKING:
    from oneticket.lab.execution.engines import Done, Progress
    from oneticket.lab.planning.plan import Plan

PATIENCE = 60.0
"""Seconds without a cell written after which, at the end of a run, the run stops waiting for a tracker."""


def tracked(shown: RunListener, trackers: Sequence[Tracker], store: Store) -> RunListener:
    """``shown``, and the trackers told of each finished cell beside it; without trackers, ``shown`` itself."""
    return _Tracked(shown, [_Writer(tracker, store) for tracker in trackers]) if trackers else shown


class _Writer:
    """One tracker with its thread; cells that it has are not written again. Its first error is its last."""

    def __init__(self, tracker: Tracker, store: Store) -> None:
        self.tracker, self.store = tracker, store
        self.cells: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.written = 0
        self.fault: str | None = None
        self.thread: threading.Thread | None = None

    def begin(self, plan: Plan) -> None:
        self.plan = plan
        for identity in self.store.finished(plan.cells):
            self.cells.put(identity)
        # A daemon: one that hangs does not keep the process alive.
        self.thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self.thread.start()

    def end(self) -> None:
        if self.thread is None:
            return
        self.cells.put(None)
        before = -1
        while self.thread.is_alive() and before != self.written:
            before = self.written
            self.thread.join(PATIENCE)
        if self.thread.is_alive():
            self.fault = f"nothing was written in {PATIENCE:.0f} s"
        if self.fault is not None:
            name = type(self.tracker).__name__
            warnings.warn(
                f"{name} has not got all cells ({self.fault}); the results are in the store, and the same command "
                "with --track writes what it lacks",
                stacklevel=2,
            )

    def _work(self) -> None:
        try:
            self.tracker.begin(self.plan.experiment)
            while (identity := self.cells.get()) is not None:
                if not self.tracker.has(identity):
                    self.tracker.write(read_cell(self.store, identity, self.plan.labels.get(identity, identity[:12])))
                self.written += 1
            self.tracker.close()
        except Exception as error:  # whatever another program's library raises: it must not hurt the run
            self.fault = f"{type(error).__name__}: {error}".partition("\n")[0][:300]


class _Tracked(RunListener):
    def __init__(self, shown: RunListener, writers: Sequence[_Writer]) -> None:
        self.shown, self.writers = shown, writers

    def begin(self, plan: Plan, cached: int) -> None:
        self.shown.begin(plan, cached)
        for writer in self.writers:
            writer.begin(plan)

    def finished(self, cell: str, done: Done) -> None:
        self.shown.finished(cell, done)
        for writer in self.writers:
            writer.cells.put(cell)

    def end(self) -> None:
        self.shown.end()
        for writer in self.writers:
            writer.end()

    def started(self, cell: str) -> None:
        self.shown.started(cell)

    def progress(self, progress: Progress) -> None:
        self.shown.progress(progress)

    def postponed(self, cell: str) -> None:
        self.shown.postponed(cell)

    def retried(self, cell: str, reason: str, *, alone: bool = True) -> None:
        self.shown.retried(cell, reason, alone=alone)

    def failed(self, cell: str, reason: str) -> None:
        self.shown.failed(cell, reason)

    def crowded(self, reason: str) -> None:
        self.shown.crowded(reason)

    def tick(self) -> None:
        self.shown.tick()
