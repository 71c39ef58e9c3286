"""Workers that do not advance: stopped, deadlocked and hung ones are ended and told; slow ones are left in peace."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import oneticket.lab.execution.engines.stall
from oneticket.lab.cells.claims import Busy
from oneticket.lab.cells.run import Patience, Watch, run_cell
from oneticket.lab.execution.engines import LocalEngine, Progress
from oneticket.lab.execution.engines.stall import Stall
from oneticket.lab.execution.engines.worker import Pulse
from oneticket.lab.execution.scheduler import STALLS, RunListener
from oneticket.lab.results.table import remember

DENSE = {"targets": ["digits@sgd"], "arms": ["dense"]}
SOON = Patience(seconds=2.0, steps=20.0)

HANGING = """
import ctypes, pathlib, threading, time
import torch
from torch import nn

class Hanging(nn.Module):
    def __init__(self, inputs, classes, kind, once):
        super().__init__()
        self.body, self.head, self.kind, self.once = nn.Linear(inputs, 8), nn.Linear(8, classes), kind, once

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            if self.kind == "slow":
                time.sleep(0.01)
            elif not (self.once and self.seen()):
                self.hang_here()
        return self.head(self.body(x.flatten(1)))

    def seen(self):
        place = pathlib.Path(self.once)
        if place.exists():
            return True
        place.touch()
        return False

    def hang_here(self):
        if self.kind == "deadlock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        if self.kind == "native":  # it keeps the interpreter's lock
            ctypes.PyDLL(None).sleep(3600)

def net(input_shape, classes, kind: str, once: str = ""):
    c, h, w = input_shape
    return Hanging(c * h * w, classes, kind, once)
"""


class Heard(RunListener):
    """What a run tells."""

    def __init__(self) -> None:
        self.started_cells: list[str] = []
        self.reasons: list[tuple[str, bool]] = []

    def started(self, cell: str) -> None:
        self.started_cells.append(cell)

    def retried(self, cell: str, reason: str, *, alone: bool = True) -> None:
        self.reasons.append((reason, alone))


def hanging(lab: Any, **options: str) -> Any:
    (lab.folder / "hanging.py").write_text(HANGING)
    sys.modules.pop("hanging", None)
    models = [{"name": "hanging:net", "options": options}, "lenet-300-100"]
    return lab.plan(seeds=1, transfer=[DENSE], model=models)


@pytest.mark.parametrize("kind", ["deadlock", "native"])
def test_a_hanging_worker_fails_its_cell_with_its_stack_and_others_go_on(
    lab: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(oneticket.lab.execution.engines.stall, "HANGS", 1.0)  # the native one keeps what would end it
    plan, store, heard = hanging(lab, kind=kind), lab.store(), Heard()
    summary = lab.run(plan, store, LocalEngine(), 2, listener=heard, patience=SOON)
    ((cell, reason),) = summary.failed.items()
    assert summary.trained == 1
    assert heard.started_cells.count(cell) == STALLS
    assert [alone for _, alone in heard.reasons] == [False]
    assert reason.startswith("no step was done in ")
    assert "though its process was alive; its stack is in " in reason
    assert reason.endswith(f"(tried {STALLS} times)")
    assert "hang_here" in (store.root / "failures" / f"{cell}.txt").read_text()


@pytest.mark.slow
def test_a_worker_that_hung_once_is_tried_again(lab: Any) -> None:
    plan, store, heard = hanging(lab, kind="deadlock", once=str(lab.folder / "seen")), lab.store(), Heard()
    summary = lab.run(plan, store, LocalEngine(), 2, listener=heard, patience=SOON)
    assert (summary.trained, summary.failed, len(heard.reasons)) == (2, {}, 1)
    assert not list((store.root / "failures").iterdir()), "the stack of the first attempt is forgotten"


def test_slow_steps_are_not_a_stall(lab: Any) -> None:
    """As where memory is swapped: each step takes longer than the least patience."""
    plan, heard = hanging(lab, kind="slow"), Heard()
    summary = lab.run(plan, lab.store(), LocalEngine(), 1, listener=heard, patience=Patience(seconds=3.0, steps=1e6))
    assert (summary.trained, heard.reasons) == (2, [])


class Stopper(Heard):
    """Stops the worker of a cell by a signal when it makes progress."""

    def __init__(self, local: LocalEngine) -> None:
        super().__init__()
        self.local, self.stopped = local, 0

    def progress(self, progress: Progress) -> None:
        for process in list(self.local._running):
            if not self.stopped and process.pid and process.is_alive():
                self.stopped = process.pid
                os.kill(process.pid, signal.SIGSTOP)


def test_a_stopped_worker_is_ended_and_its_cell_computed_again(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer=[DENSE], recipe__sgd__epochs=60)
    store, local = lab.store(), LocalEngine()
    remember(plan, store)
    heard = Stopper(local)
    summary = lab.run(plan, store, local, listener=heard, patience=SOON, checkpoint_every=0)
    assert heard.stopped
    assert summary.complete
    ((reason, _),) = heard.reasons
    assert "though its process was stopped by a signal" in reason


def test_the_time_in_which_the_whole_run_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("oneticket.lab.execution.engines.stall.time.monotonic", lambda: now)
    stall = Stall(Patience(seconds=10.0), SimpleNamespace(pid=None, kill=lambda: None))  # type: ignore[arg-type]
    now = 8 * 3600.0  # the night
    stall.tick()
    assert stall.noticed is None
    for _ in range(12):
        now += 1.0
        stall.tick()
    assert stall.noticed is not None


def test_patience_grows_with_the_slowest_step() -> None:
    assert Patience(seconds=600, steps=20).limit(slowest=1.0) == 600
    assert Patience(seconds=600, steps=20).limit(slowest=100.0) == 2000


def test_a_pulse_tells_the_slowest_step_and_ends_a_process_that_nobody_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    told, ended = list[float](), threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    pulse = Pulse(Patience(seconds=0.2), told.append)
    for seconds in (0.0, 0.05, 0.0, 0.03):
        time.sleep(seconds)
        pulse.beat()
    assert told
    assert ended.wait(timeout=600)


def test_the_batches_of_evaluations_are_progress(lab: Any, tmp_path: Path) -> None:
    """Otherwise a long validation or a large test split would count as a stall."""
    (cell,) = lab.plan(seeds=1, transfer=[DENSE]).cells.values()
    beats: list[None] = []
    record = run_cell(cell, lab.workplace(lab.store()), tmp_path, Watch(on_step=lambda: beats.append(None)))
    assert len(beats) == record["cost"]["steps"] + cell.recipe.epochs + 1, "a batch for each validation, one to test"


def test_a_worker_whose_claim_was_taken_over_writes_nothing(lab: Any) -> None:
    """It was stopped for longer than the lease, and another process computes the cell now."""
    store, identity = lab.store(), "ab" + "0" * 62
    with store.claimed(identity) as working:
        (working / "weights-end.safetensors").write_bytes(b"...")
        (store.root / "leases" / f"{identity}.lease").write_text("another holder")
        with pytest.raises(Busy, match="was taken over"):
            store.commit(identity, working, {"description": {}, "outcome": {}, "cost": {}})
    assert not store.has(identity)
