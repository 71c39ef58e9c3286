"""The scheduler: it chooses the next cell to compute, handles failures, and reports to a listener."""

from __future__ import annotations

import heapq
import queue
import time
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for

from oneticket.errors import OneticketError
from oneticket.lab.cells.claims import Busy
from oneticket.lab.cells.description import Description, Network
from oneticket.lab.cells.run import Workplace
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.capacity import Memory
from oneticket.lab.execution.engines import (
    Crashed,
    DiskFull,
    Done,
    Engine,
    OutOfMemory,
    Progress,
    Stalled,
    Task,
    WorkerDied,
)
from oneticket.lab.execution.events import RunListener, Summary
from oneticket.lab.planning.plan import Plan

__all__ = ["ATTEMPTS", "RunListener", "Summary", "missing", "run_plan"]

ATTEMPTS = 3  # for a cell whose worker died or ran out of memory; all but the first run alone
STALLS = 2  # attempts for a cell whose worker did not advance; others go on beside the second
ENOUGH = 2  # crashes of one network with one signal, after which its cells are not tried again
ASK_AGAIN = 0.5  # seconds until a cell that another process computes is checked again


class _Run:
    """The mutable state of one run over a plan."""

    def __init__(
        self, plan: Plan, store: Store, engine: Engine, workplace: Workplace, workers: int, listener: RunListener
    ):
        self.plan, self.store, self.engine, self.workplace = plan, store, engine, workplace
        self.workers, self.listener = workers, listener
        self.names = list(plan.cells)  # in the order of their turns
        self.place = {identity: number for number, identity in enumerate(self.names)}
        lacking = missing(plan, store)
        self.summary = Summary(cells=len(self.names), cached=len(self.names) - len(lacking))
        self.lacking: dict[str, int] = {}  # for each unfinished cell: how many of its parents are unfinished
        self.children: dict[str, list[str]] = {}
        for identity, cell in lacking.items():
            parents = [parent for parent in cell.parents if parent in lacking]
            self.lacking[identity] = len(parents)
            for parent in parents:
                self.children.setdefault(parent, []).append(identity)
        self.ready = [self.place[identity] for identity, count in self.lacking.items() if not count]  # a heap
        self.later: list[tuple[float, int]] = []  # a heap: when to check again a cell that another run computes
        self.alone: list[str] = []
        self.lonely: str | None = None
        self.running: dict[Future[Done], str] = {}
        self.memory = Memory(plan.cells)
        self.crowded = False
        self.attempts: dict[str, int] = {}
        self.crashes: list[tuple[Network, int]] = []
        self.heard: queue.SimpleQueue[Progress] = queue.SimpleQueue()
        self.stopped: str | None = None

    def run(self) -> Summary:
        began = time.monotonic()
        self.listener.begin(self.plan, self.summary.cached)
        while self.running or ((self.ready or self.alone or self.later) and not self.stopped):
            self._submit()
            if self.running:
                done, _ = wait_for(self.running, timeout=0.2, return_when=FIRST_COMPLETED)
            else:
                done = set()
                time.sleep(0.1)
            while not self.heard.empty():
                progress = self.heard.get()
                self.memory.heard(progress.cell, progress.bytes)
                self.listener.progress(progress)
            for future in done:
                self._settle(self.running.pop(future), future)
            self.listener.tick()
        lost = [identity for identity in self.lacking if identity not in self.summary.failed]
        there = self.store.finished(lost)
        reason = self.stopped or "a cell that it builds on has failed"
        self.summary.left_out = {identity: reason for identity in lost if identity not in there}
        self.summary.seconds = time.monotonic() - began
        return self.summary

    def _submit(self) -> None:
        if self.stopped:
            return
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            heapq.heappush(self.ready, heapq.heappop(self.later)[1])
        if self.alone:
            # Nothing new starts beside it: first the running cells end, then it runs, then the others go on.
            if not self.running:
                self.lonely = self.alone.pop(0)
                self._start(self.lonely)
            return
        beside = set(self.running.values())
        while self.ready and len(beside) < self.workers and self.lonely not in beside:
            identity = self.names[self.ready[0]]
            reason = self.memory.lacks(identity, beside)
            if reason is not None:
                if not self.crowded:
                    self.listener.crowded(reason)
                self.crowded = True
                return
            heapq.heappop(self.ready)
            self._start(identity)
            beside.add(identity)

    def _start(self, identity: str) -> None:
        self.attempts[identity] = self.attempts.get(identity, 0) + 1
        self.listener.started(identity)
        future = self.engine.submit(Task(self.plan.cells[identity], self.workplace), self.heard.put)
        self.running[future] = identity

    def _settle(self, identity: str, future: Future[Done]) -> None:
        self.memory.ended(identity)
        try:
            done = future.result()
        except Busy:
            self.attempts[identity] -= 1
            heapq.heappush(self.later, (time.monotonic() + ASK_AGAIN, self.place[identity]))
            self.listener.postponed(identity)
        except (OutOfMemory, WorkerDied) as error:
            given_up = self._given_up(identity, error)
            if given_up is None:
                beside = isinstance(error, Stalled)
                self.listener.retried(identity, str(error), alone=not beside)
                if beside:
                    heapq.heappush(self.ready, self.place[identity])
                else:
                    self.alone.append(identity)
            else:
                self._fail(identity, f"{error} ({given_up})")
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
            if done.diverged is not None:
                self.summary.diverged[identity] = done.diverged
            self.summary.took_plain_path(self.plan.cells[identity].network.name, done.plain)
            del self.lacking[identity]
            self.listener.finished(identity, done)
            for child in self.children.get(identity, ()):
                self.lacking[child] -= 1
                if not self.lacking[child]:
                    heapq.heappush(self.ready, self.place[child])

    def _given_up(self, identity: str, error: OutOfMemory | WorkerDied) -> str | None:
        """Why a cell whose worker has died is not tried again; None if it is."""
        known = False
        if isinstance(error, Crashed):
            kind = (self.plan.cells[identity].network, error.number)
            known = self.crashes.count(kind) >= ENOUGH
            self.crashes.append(kind)
        most = STALLS if isinstance(error, Stalled) else ATTEMPTS
        if self.attempts[identity] >= most:
            return f"tried {self.attempts[identity]} times"
        return "not tried again: cells of this network crashed like this before in this run" if known else None

    def _fail(self, identity: str, reason: str) -> None:
        self.summary.failed[identity] = reason
        self.store.note_failure(identity, self.plan.labels.get(identity, identity[:12]), reason)
        self.listener.failed(identity, reason)


def run_plan(
    plan: Plan,
    store: Store,
    engine: Engine,
    workplace: Workplace,
    *,
    workers: int,
    listener: RunListener | None = None,
) -> Summary:
    """Compute the cells of ``plan`` that ``store`` lacks; a cell that fails stops only the cells that build on it.

    A cell whose worker dies or runs out of memory is retried with nothing else running, one whose worker did not
    advance once, beside others. After two crashes in native code with the same signal in cells of one network, a cell
    that crashes likewise is not retried. KeyboardInterrupt passes through after the workers have ended; finished cells
    are kept, and unfinished ones go on from their checkpoints.
    """
    listener = listener or RunListener()
    try:
        return _Run(plan, store, engine, workplace, workers, listener).run()
    finally:
        listener.end()
        engine.close()


def missing(plan: Plan, store: Store | None) -> dict[str, Description]:
    """The cells of the plan that the store lacks."""
    there = store.finished(plan.cells) if store is not None else set()
    return {identity: cell for identity, cell in plan.cells.items() if identity not in there}
