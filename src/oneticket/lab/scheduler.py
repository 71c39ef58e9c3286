"""The scheduler: which cell is computed next, what happens when one fails, and what is told about it."""

from __future__ import annotations

import queue
import time
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for

import msgspec

from oneticket.errors import OneticketError
from oneticket.lab.cell import Setting
from oneticket.lab.description import Description
from oneticket.lab.engines import DiskFull, Done, Engine, OutOfMemory, Progress, Task, WorkerDied
from oneticket.lab.plan import Plan
from oneticket.lab.store import Busy, Store

ATTEMPTS = 3  # of a cell whose worker died or ran out of memory; the ones after the first run alone
ASK_AGAIN = 0.5  # seconds until a cell that another process computes is looked at again


class Summary(msgspec.Struct, kw_only=True):
    """How a run ended. ``failed`` and ``left_out`` give the reason for each cell that has no result."""

    cells: int
    cached: int = 0
    trained: int = 0
    elsewhere: int = 0
    failed: dict[str, str] = {}
    left_out: dict[str, str] = {}
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every cell has its result."""
        return not self.failed and not self.left_out


class Watcher:
    """Hears what happens during a run; this one says nothing."""

    def begin(self, plan: Plan, cached: int) -> None:
        """The run starts; ``cached`` cells are there already."""

    def started(self, cell: str) -> None:
        """A cell is being computed."""

    def progress(self, progress: Progress) -> None:
        """A running cell has finished an epoch."""

    def finished(self, cell: str, done: Done) -> None:
        """A cell is there."""

    def postponed(self, cell: str) -> None:
        """A cell is being computed by another run; it will be looked at again."""

    def retried(self, cell: str, reason: str) -> None:
        """A cell will be tried again."""

    def failed(self, cell: str, reason: str) -> None:
        """A cell has failed for good."""

    def tick(self) -> None:
        """Time has passed."""

    def end(self) -> None:
        """The run is over, one way or another."""


class _Run:
    """The mutable state of one run over a plan."""

    def __init__(self, plan: Plan, store: Store, engine: Engine, setting: Setting, workers: int, watcher: Watcher):
        self.plan, self.store, self.engine, self.setting = plan, store, engine, setting
        self.workers, self.watcher = workers, watcher
        self.labels = {identity: plan.labels.get(identity, identity[:12]) for identity in plan.cells}
        missing = {identity: cell for identity, cell in plan.cells.items() if not store.has(identity)}
        self.summary = Summary(cells=len(plan.cells), cached=len(plan.cells) - len(missing))
        self.waiting: dict[str, set[str]] = {
            identity: {parent for parent in cell.parents if parent in missing} for identity, cell in missing.items()
        }
        self.children: dict[str, list[str]] = {}
        for identity, parents in self.waiting.items():
            for parent in parents:
                self.children.setdefault(parent, []).append(identity)
        self.ready = [identity for identity, parents in self.waiting.items() if not parents]
        self.order = {identity: number for number, identity in enumerate(plan.cells)}
        self.alone: list[str] = []
        self.lonely: str | None = None
        self.later: dict[str, float] = {}
        self.running: dict[Future[Done], str] = {}
        self.attempts: dict[str, int] = {}
        self.heard: queue.SimpleQueue[Progress] = queue.SimpleQueue()
        self.stopped: str | None = None

    def run(self) -> Summary:
        began = time.monotonic()
        self.watcher.begin(self.plan, self.summary.cached)
        while self.running or ((self.ready or self.alone or self.later) and not self.stopped):
            self._submit()
            if self.running:
                done, _ = wait_for(self.running, timeout=0.2, return_when=FIRST_COMPLETED)
            else:
                done = set()
                time.sleep(0.1)
            for future in done:
                self._settle(self.running.pop(future), future)
            while not self.heard.empty():
                self.watcher.progress(self.heard.get())
            self.watcher.tick()
        for identity in self.waiting:
            if identity not in self.summary.failed and not self.store.has(identity):
                self.summary.left_out.setdefault(identity, self.stopped or "a cell it builds on has failed")
        self.summary.seconds = time.monotonic() - began
        return self.summary

    def _submit(self) -> None:
        if self.stopped:
            return
        now = time.monotonic()
        for identity in [i for i, when in self.later.items() if when <= now]:
            del self.later[identity]
            self.ready.append(identity)
        self.ready.sort(key=self.order.__getitem__)
        if self.alone:
            # Nothing new is started beside it: first the running cells end, then it runs, then the others go on.
            if not self.running:
                self.lonely = self.alone.pop(0)
                self._start(self.lonely)
            return
        while self.ready and len(self.running) < self.workers and self.lonely not in self.running.values():
            self._start(self.ready.pop(0))

    def _start(self, identity: str) -> None:
        self.attempts[identity] = self.attempts.get(identity, 0) + 1
        self.watcher.started(identity)
        future = self.engine.submit(Task(self.plan.cells[identity], self.setting), self.heard.put)
        self.running[future] = identity

    def _settle(self, identity: str, future: Future[Done]) -> None:
        try:
            done = future.result()
        except Busy:
            self.attempts[identity] -= 1
            self.later[identity] = time.monotonic() + ASK_AGAIN
            self.watcher.postponed(identity)
        except (OutOfMemory, WorkerDied) as error:
            if self.attempts[identity] < ATTEMPTS:
                self.watcher.retried(identity, str(error))
                self.alone.append(identity)
            else:
                self._fail(identity, f"{error} (tried {ATTEMPTS} times)")
        except DiskFull as error:
            self.stopped = f"the disk is full ({error})"
            self._fail(identity, self.stopped)
        except OneticketError as error:
            self._fail(identity, str(error))
        else:
            if done.cached:
                self.summary.elsewhere += 1
            else:
                self.summary.trained += 1
            self.watcher.finished(identity, done)
            for child in self.children.get(identity, ()):
                self.waiting[child].discard(identity)
                if not self.waiting[child]:
                    self.ready.append(child)

    def _fail(self, identity: str, reason: str) -> None:
        self.summary.failed[identity] = reason
        self.store.note_failure(identity, self.labels[identity], reason)
        self.watcher.failed(identity, reason)


def run_plan(
    plan: Plan,
    store: Store,
    engine: Engine,
    setting: Setting,
    *,
    workers: int,
    watcher: Watcher | None = None,
) -> Summary:
    """Compute what ``plan`` lacks in ``store``; a cell that fails takes only those that build on it with it.

    A worker that dies or runs out of memory is retried with nothing else running. KeyboardInterrupt passes through
    after the workers have been ended; everything finished is kept and unfinished cells go on from their checkpoints.
    """
    listener = watcher or Watcher()
    try:
        return _Run(plan, store, engine, setting, workers, listener).run()
    finally:
        listener.end()
        engine.close()


def missing(plan: Plan, store: Store | None) -> dict[str, Description]:
    """The cells of the plan that the store has not."""
    return {i: cell for i, cell in plan.cells.items() if store is None or not store.has(i)}
