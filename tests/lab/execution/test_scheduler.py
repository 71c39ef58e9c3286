"""The scheduler, with an engine that computes nothing and ends each cell as the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import oneticket.lab.execution.capacity
import oneticket.lab.execution.scheduler
from oneticket.errors import OneticketError
from oneticket.lab.cells.description import Initial
from oneticket.lab.cells.store import Busy, Store
from oneticket.lab.execution.capacity import GIB
from oneticket.lab.execution.engines import CellFailed, Crashed, DiskFull, Done, OutOfMemory, Progress, Task, WorkerDied
from oneticket.lab.execution.scheduler import ATTEMPTS, ENOUGH, RunListener, Summary, missing
from oneticket.lab.planning.plan import Plan

RECORD: dict[str, Any] = {"description": {}, "outcome": {}, "cost": {}}
Ending = OneticketError | Done | BaseException


class Fake:
    """An engine whose cells last ``seconds``, one of them longer when tried again, and end as ``endings`` say.

    ``log`` has, for each submission, the cell and those that were running beside it.
    """

    def __init__(
        self,
        store: Store,
        endings: dict[str, list[Ending]] | None = None,
        seconds: float = 0.0,
        slow: str = "",
        taken: int = 0,
    ) -> None:
        self.store, self.endings, self.seconds, self.slow = store, endings or {}, seconds, slow
        self.taken = taken  # bytes that each cell tells
        self.log: list[tuple[str, set[str]]] = []
        self.running: set[str] = set()
        self.closed = False

    @property
    def order(self) -> list[str]:
        return [identity for identity, _ in self.log]

    def submit(self, task: Task, on_progress: Callable[[Progress], None]) -> Future[Done]:
        identity = task.cell.identity
        assert all(self.store.has(parent) for parent in task.cell.parents), "a cell before its parents"
        self.log.append((identity, set(self.running)))
        self.running.add(identity)
        future: Future[Done] = Future()
        on_progress(Progress(identity, 1, 3, 0.5, self.taken))
        ending = self.endings[identity].pop(0) if self.endings.get(identity) else Done()
        seconds = 0.5 if identity == self.slow and self.order.count(identity) > 1 else self.seconds
        threading.Timer(seconds, self._end, (identity, future, ending)).start()
        return future

    def _end(self, identity: str, future: Future[Done], ending: Ending) -> None:
        self.running.discard(identity)
        if isinstance(ending, BaseException):
            future.set_exception(ending)
        else:
            with self.store.claimed(identity) as working:
                self.store.commit(identity, working, RECORD)
            future.set_result(ending)

    def close(self) -> None:
        self.closed = True


class Heard(RunListener):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def begin(self, plan: Plan, cached: int) -> None:
        self.events.append(("begin", str(cached)))

    def started(self, cell: str) -> None:
        self.events.append(("started", cell))

    def progress(self, progress: Progress) -> None:
        self.events.append(("progress", progress.cell))

    def finished(self, cell: str, done: Done) -> None:
        self.events.append(("finished", cell))

    def postponed(self, cell: str) -> None:
        self.events.append(("postponed", cell))

    def retried(self, cell: str, reason: str, *, alone: bool = True) -> None:
        self.events.append(("retried", cell, reason))

    def failed(self, cell: str, reason: str) -> None:
        self.events.append(("failed", cell, reason))

    def crowded(self, reason: str) -> None:
        self.events.append(("crowded", reason))

    def end(self) -> None:
        self.events.append(("end",))

    def kinds(self, kind: str) -> list[tuple[str, ...]]:
        return [event[1:] for event in self.events if event[0] == kind]


@pytest.fixture
def plan(lab: Any) -> Plan:
    return lab.plan(seeds=1)  # type: ignore[no-any-return]


@pytest.fixture
def store(lab: Any) -> Store:
    return lab.store()  # type: ignore[no-any-return]


def go(
    lab: Any, plan: Plan, store: Store, engine: Fake, workers: int = 1, listener: RunListener | None = None
) -> Summary:
    return lab.run(plan, store, engine, workers, listener=listener)  # type: ignore[no-any-return]


def roots(plan: Plan) -> list[str]:
    return [identity for identity, cell in plan.cells.items() if not cell.parents]


def descendants(plan: Plan, identity: str) -> set[str]:
    found = {identity}
    for child, cell in plan.cells.items():
        if found & set(cell.parents):
            found.add(child)
    return found - {identity}


def test_every_cell_is_computed_once_parents_first_and_counted(lab: Any, plan: Plan, store: Store) -> None:
    engine, heard = Fake(store), Heard()
    summary = go(lab, plan, store, engine, listener=heard)
    assert sorted(engine.order) == sorted(plan.cells)
    assert summary.cells == summary.trained == len(plan.cells)
    assert summary.cached == summary.elsewhere == 0
    assert summary.complete
    assert engine.closed
    assert heard.events[0] == ("begin", "0")
    assert heard.events[-1] == ("end",)
    for kind in ("started", "progress", "finished"):
        assert sorted(heard.kinds(kind)) == sorted((identity,) for identity in plan.cells)


def test_one_worker_goes_through_the_plan_in_its_order_as_far_as_parents_allow(
    lab: Any, plan: Plan, store: Store
) -> None:
    engine = Fake(store)
    go(lab, plan, store, engine)
    done: set[str] = set()
    waiting = list(plan.cells)
    for identity in engine.order:
        assert identity == next(i for i in waiting if set(plan.cells[i].parents) <= done)
        waiting.remove(identity)
        done.add(identity)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_as_many_cells_run_side_by_side_as_there_are_workers(lab: Any, plan: Plan, store: Store, workers: int) -> None:
    engine = Fake(store, seconds=0.02)
    assert go(lab, plan, store, engine, workers).complete
    assert max(len(beside) for _, beside in engine.log) == workers - 1


@pytest.mark.parametrize(("free", "beside"), [(1, 0), (2, 1), (3, 2), (9, 3)])
def test_no_more_cells_run_side_by_side_than_memory_holds(
    lab: Any, plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch, free: int, beside: int
) -> None:
    """Cells that tell 4 GiB need 5 with the margin; ``free`` times that is there before anything runs."""
    engine, heard = Fake(store, seconds=0.1, taken=4 * GIB), Heard()
    monkeypatch.setattr(
        oneticket.lab.execution.capacity, "free_memory", lambda: free * 5 * GIB - 4 * GIB * max(len(engine.running), 1)
    )
    assert go(lab, plan, store, engine, 4, heard).complete
    assert max(len(others) for _, others in engine.log) <= min(beside, free - 1)
    assert len(heard.kinds("crowded")) == (free < 4), "told once"


def test_what_is_there_is_not_computed_again(lab: Any, plan: Plan, store: Store) -> None:
    go(lab, plan, store, Fake(store))
    engine, heard = Fake(store), Heard()
    assert missing(plan, store) == {}
    summary = go(lab, plan, store, engine, listener=heard)
    assert engine.order == []
    assert (summary.cached, summary.trained, summary.complete) == (len(plan.cells), 0, True)
    assert heard.events == [("begin", str(len(plan.cells))), ("end",)]


def test_missing_is_everything_without_a_store(plan: Plan, store: Store) -> None:
    assert missing(plan, None).keys() == missing(plan, store).keys() == plan.cells.keys()


@pytest.mark.parametrize("error", [WorkerDied("signal 9"), OutOfMemory("memory exhausted at 7 MiB")])
def test_a_cell_whose_worker_dies_is_tried_again_alone(
    lab: Any, plan: Plan, store: Store, error: OneticketError
) -> None:
    unlucky = roots(plan)[0]
    engine, heard = Fake(store, {unlucky: [error] * (ATTEMPTS - 1)}, 0.02, slow=unlucky), Heard()
    summary = go(lab, plan, store, engine, 3, heard)
    assert summary.complete
    assert summary.trained == len(plan.cells)
    tries = [beside for identity, beside in engine.log if identity == unlucky]
    assert len(tries) == ATTEMPTS
    assert all(beside == set() for beside in tries[1:])
    places = [number for number, (identity, _) in enumerate(engine.log) if identity == unlucky]
    assert all(unlucky not in beside for _, beside in engine.log[places[1] :]), "nothing is started beside it"
    assert heard.kinds("retried") == [(unlucky, str(error))] * (ATTEMPTS - 1)


@pytest.mark.parametrize("error", [WorkerDied("signal 9"), OutOfMemory("memory exhausted at 7 MiB")])
def test_a_cell_whose_worker_always_dies_fails_with_the_reason(
    lab: Any, plan: Plan, store: Store, error: OneticketError
) -> None:
    unlucky = roots(plan)[0]
    engine, heard = Fake(store, {unlucky: [error] * 9}), Heard()
    summary = go(lab, plan, store, engine, 2, heard)
    assert engine.order.count(unlucky) == ATTEMPTS
    assert summary.failed == {unlucky: f"{error} (tried {ATTEMPTS} times)"}
    assert summary.left_out.keys() == descendants(plan, unlucky)
    assert heard.kinds("failed") == [(unlucky, f"{error} (tried {ATTEMPTS} times)")]


AGAIN = "not tried again: cells of this network crashed like this before in this run"


def test_a_cell_that_crashes_as_others_of_its_network_did_is_not_tried_again(lab: Any, store: Store) -> None:
    plan: Plan = lab.plan(seeds=4, transfer=[{"targets": ["digits@sgd", "low@sgd"], "arms": ["dense"]}])
    of_a_kind = [i for i, cell in plan.cells.items() if cell.network == next(iter(plan.cells.values())).network]
    assert len(of_a_kind) == 4, "those of the other data set have a network with fewer classes"
    crash = Crashed("lenet-300-100", 11, "failures/stack.txt")
    engine = Fake(store, {identity: [crash] * 9 for identity in plan.cells})
    summary = go(lab, plan, store, engine)
    for kind in (of_a_kind, [identity for identity in plan.cells if identity not in of_a_kind]):
        first, *others = sorted(kind, key=engine.order.index)
        assert engine.order.count(first) == ATTEMPTS, "the first of its kind"
        assert summary.failed[first] == f"{crash} (tried {ATTEMPTS} times)"
        for identity in others:
            assert engine.order.count(identity) == 1
            assert summary.failed[identity] == f"{crash} ({AGAIN})"


def test_cells_that_crash_side_by_side_are_given_up_after_the_second_crash(lab: Any, store: Store) -> None:
    plan: Plan = lab.plan(seeds=3, transfer=[{"targets": ["digits@sgd"], "arms": ["dense"]}])
    engine = Fake(store, {identity: [Crashed("lenet-300-100", 6)] * 9 for identity in plan.cells}, 0.02)
    summary = go(lab, plan, store, engine, 3)
    assert len(engine.order) == len(plan.cells) + ENOUGH
    assert {reason.rpartition(" (")[2] for reason in summary.failed.values()} == {f"{AGAIN})"}


@pytest.mark.parametrize("error", [Crashed("lenet-300-100", 6), WorkerDied("signal 9"), OutOfMemory("at 7 MiB")])
def test_a_cell_that_dies_in_another_way_than_those_before_is_tried_again(
    lab: Any, store: Store, error: OneticketError
) -> None:
    plan: Plan = lab.plan(seeds=2, transfer=[{"targets": ["digits@sgd"], "arms": ["dense"]}])
    first, second = plan.cells
    crash = Crashed("lenet-300-100", 11)
    engine = Fake(store, {first: [crash] * ATTEMPTS, second: [error] * (ATTEMPTS - 1)})
    summary = go(lab, plan, store, engine)
    assert summary.failed == {first: f"{crash} (tried {ATTEMPTS} times)"}
    assert engine.order.count(second) == ATTEMPTS
    assert go(lab, plan, store, Fake(store, {first: [crash] * (ATTEMPTS - 1)})).complete, "the next run begins anew"


def test_a_cell_that_fails_takes_only_its_descendants_with_it(lab: Any, plan: Plan, store: Store) -> None:
    unlucky = next(identity for identity, cell in plan.cells.items() if isinstance(cell.start, Initial))
    below = descendants(plan, unlucky)
    assert below
    assert below | {unlucky} < set(plan.cells)
    engine = Fake(store, {unlucky: [CellFailed("the loss is nan")]})
    summary = go(lab, plan, store, engine, 2)
    assert engine.order.count(unlucky) == 1, "trying again would give the same"
    assert summary.failed == {unlucky: "the loss is nan"}
    assert summary.left_out == dict.fromkeys(below, "a cell that it builds on has failed")
    assert summary.trained == len(plan.cells) - len(below) - 1
    assert not summary.complete
    assert set(engine.order) == set(plan.cells) - below
    assert (store.root / "failures" / f"{unlucky}.json").exists()


def test_a_failed_cell_is_tried_again_by_the_next_run(lab: Any, plan: Plan, store: Store) -> None:
    unlucky = roots(plan)[0]
    first = go(lab, plan, store, Fake(store, {unlucky: [CellFailed("once")]}))
    second = go(lab, plan, store, Fake(store))
    assert second.complete
    assert second.trained == 1 + len(first.left_out)
    assert not list((store.root / "failures").iterdir())


def test_the_plain_path_is_told_once_for_each_layer_of_a_network(lab: Any, store: Store) -> None:
    plan: Plan = lab.plan(seeds=3, transfer=[{"targets": ["digits@sgd"], "arms": ["dense"]}])
    plain = [{"conv": "8 channels: wrong"}, {"conv": "7 channels: wrong"}, {"conv": "wrong", "": "it can't be copied"}]
    engine = Fake(store, {identity: [Done(plain=p)] for identity, p in zip(plan.cells, plain, strict=True)})
    summary = go(lab, plan, store, engine)
    assert [str(path) for path in summary.plain] == [
        "layer 'conv' of lenet-300-100: 8 channels: wrong  [3 cells]",
        "lenet-300-100 as a whole: it can't be copied  [1 cell]",
    ]
    assert go(lab, plan, store, engine).plain == [], "of cells that were there already their records tell"


def test_a_full_disk_stops_the_run_and_leaves_the_rest_out(lab: Any, plan: Plan, store: Store) -> None:
    second = [identity for identity in plan.cells if identity in roots(plan)][1]
    engine = Fake(store, {second: [DiskFull("no space left")]})
    summary = go(lab, plan, store, engine)
    assert engine.order[-1] == second, "nothing is started afterwards"
    assert summary.failed == {second: "the disk is full (no space left)"}
    assert summary.failed.keys() | summary.left_out.keys() == {i for i in plan.cells if not store.has(i)}
    assert set(summary.left_out.values()) == {"the disk is full (no space left)"}
    assert go(lab, plan, store, Fake(store)).complete


def test_a_cell_that_another_run_computes_is_asked_for_again(
    lab: Any, plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oneticket.lab.execution.scheduler, "ASK_AGAIN", 0.05)
    first = roots(plan)[0]
    engine, heard = Fake(store, {first: [Busy("busy")] * 5 + [Done(cached=True)]}), Heard()
    summary = go(lab, plan, store, engine, listener=heard)
    assert engine.order.count(first) == 6, "more often than a cell that fails would be tried"
    assert (summary.elsewhere, summary.trained) == (1, len(plan.cells) - 1)
    assert summary.complete
    assert heard.kinds("postponed") == [(first,)] * 5
    others = [identity for identity in engine.order if identity != first]
    assert engine.order.index(others[0]) < 2, "the others go on meanwhile"


def test_to_find_a_cell_busy_is_no_attempt_at_it(
    lab: Any, plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oneticket.lab.execution.scheduler, "ASK_AGAIN", 0.01)
    first = roots(plan)[0]
    endings: list[Ending] = [Busy("busy")] * ATTEMPTS + [WorkerDied("signal 9")] * (ATTEMPTS - 1)
    engine = Fake(store, {first: endings})
    assert go(lab, plan, store, engine).complete
    assert engine.order.count(first) == 2 * ATTEMPTS


def test_an_interruption_ends_the_workers_and_passes_through(lab: Any, plan: Plan, store: Store) -> None:
    engine, heard = Fake(store, {roots(plan)[0]: [KeyboardInterrupt()]}), Heard()
    with pytest.raises(KeyboardInterrupt):
        go(lab, plan, store, engine, listener=heard)
    assert engine.closed
    assert heard.events[-1] == ("end",)
