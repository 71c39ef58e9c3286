"""Workers that crash in native code tell where they were, and what workers write to standard error is not lost."""

from __future__ import annotations

import pickle
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import oneticket.lab.execution.engines.lastwords
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.engines import CellFailed, Crashed, Done, LocalEngine, Task, WorkerDied
from oneticket.lab.execution.scheduler import ATTEMPTS, RunListener, Summary
from oneticket.lab.planning.plan import Plan

DENSE = {"targets": ["digits@sgd"], "arms": ["dense"]}

CRASHING = """
import ctypes, os, sys
from pathlib import Path
import torch
from torch import nn

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

class Crashing(nn.Module):
    def __init__(self, inputs, classes, kind):
        super().__init__()
        self.body, self.head, self.kind = nn.Linear(inputs, 8), nn.Linear(8, classes), kind

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and not Path(__file__).with_name("calm").exists():
            print("a word of the model's own", file=sys.stderr)
            self.crash()
        return self.head(self.body(x.flatten(1)))

    def crash(self):
        if self.kind == "read":
            ctypes.string_at(0)
        if self.kind == "abort":
            os.abort()
        if self.kind == "pointer":
            libc.free(ctypes.c_void_p(libc.malloc(5000) + 8))
        if self.kind == "twice":
            first, second = libc.malloc(5000), libc.malloc(5000)  # the second, so that it is no end of the heap
            for _ in range(2):
                libc.free(ctypes.c_void_p(first))
        if self.kind == "child":
            child = os.fork()
            if not child:
                os.abort()
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -6
        if self.kind == "error":
            raise KeyError("the wiring")
        if self.kind.startswith("signal"):
            os.kill(os.getpid(), int(self.kind[6:]))

def net(input_shape, classes, kind: str):
    c, h, w = input_shape
    return Crashing(c * h * w, classes, kind)
"""


def planned(lab: Any, kind: str, seeds: int = 1) -> Plan:
    """One cell a seed, of a network that crashes while it is trained; with a file ``calm`` beside it, it does not."""
    (lab.folder / "crashing.py").write_text(CRASHING)
    sys.modules.pop("crashing", None)
    model = {"name": "crashing:net", "options": {"kind": kind}}
    return lab.plan(seeds=seeds, transfer=[DENSE], model=model)  # type: ignore[no-any-return]


def tried(lab: Any, plan: Plan, store: Store) -> Done:
    """One attempt at the only cell of a plan."""
    (cell,) = plan.cells.values()
    return LocalEngine().submit(Task(cell, lab.workplace(store)), lambda _: None).result(timeout=60)


def stacks(store: Store, plan: Plan) -> Path:
    (identity,) = plan.cells
    return store.root / "failures" / f"{identity}.txt"


@pytest.mark.parametrize(
    ("kind", "number", "written"),
    [
        ("read", signal.SIGSEGV, "in string_at"),
        ("abort", signal.SIGABRT, "Aborted"),
        ("pointer", signal.SIGABRT, "invalid pointer"),
        pytest.param(f"signal{signal.SIGBUS}", signal.SIGBUS, "Bus error", marks=pytest.mark.slow),
        pytest.param(f"signal{signal.SIGILL}", signal.SIGILL, "Illegal instruction", marks=pytest.mark.slow),
        pytest.param(f"signal{signal.SIGFPE}", signal.SIGFPE, "Floating", marks=pytest.mark.slow),
    ],
)
def test_a_crash_leaves_its_stacks_and_tells_where(lab: Any, kind: str, number: signal.Signals, written: str) -> None:
    plan, store = planned(lab, kind), lab.store()
    with pytest.raises(Crashed) as caught:
        tried(lab, plan, store)
    assert str(caught.value) == (
        f"crashed in native code (signal {number}, {number.name}) while training crashing:net; "
        f"its stack is in {stacks(store, plan)}; try --layout contiguous or --threads 1"
    )
    text = stacks(store, plan).read_text()
    assert written in text
    for frame in ('crashing.py", line ', "in crash\n", "in forward\n", "in run_cell\n"):
        assert frame in text
    assert "a word of the model's own\n" in text
    if hasattr(torch._C, "_set_print_stack_traces_on_fatal_signal"):
        assert f"{number.name}({number}), PID" in text
        assert "frame #3: " in text
    assert not list((store.root / "working").glob("*/*.txt"))


def test_a_crash_that_leaves_the_heap_locked_does_not_hang(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oneticket.lab.execution.engines.lastwords, "HANGS", 1.0)
    plan, store = planned(lab, "twice"), lab.store()
    began = time.monotonic()
    with pytest.raises(Crashed, match="signal 6, SIGABRT"):
        tried(lab, plan, store)
    assert time.monotonic() - began < 30
    text = stacks(store, plan).read_text()
    assert "double free or corruption" in text
    assert "in crash" in text


@pytest.mark.parametrize(
    ("seeds", "attempts"), [(1, [ATTEMPTS]), pytest.param(2, [1, ATTEMPTS], marks=pytest.mark.slow)]
)
def test_a_network_that_always_crashes_is_given_up(lab: Any, seeds: int, attempts: list[int]) -> None:
    plan, store = planned(lab, "abort", seeds), lab.store()
    started: list[str] = []

    class Counting(RunListener):
        def started(self, cell: str) -> None:
            started.append(cell)

    summary: Summary = lab.run(plan, store, LocalEngine(), listener=Counting())
    assert sorted(started.count(identity) for identity in plan.cells) == attempts
    for identity, reason in summary.failed.items():
        assert str(store.root / "failures" / f"{identity}.txt") in reason
        assert reason.endswith("crashed like this before in this run)") == (started.count(identity) == 1)
    kept = {path.name for path in (store.root / "failures").iterdir()}
    assert kept == {f"{identity}.{kind}" for identity in plan.cells for kind in ("json", "txt")}
    (lab.folder / "calm").touch()
    assert lab.run(plan, store, LocalEngine()).complete
    assert not list((store.root / "failures").iterdir())


def test_an_attempt_that_ends_in_another_way_takes_the_stacks_of_the_one_before(lab: Any) -> None:
    plan, store = planned(lab, "error"), lab.store()
    store.note_stacks(*plan.cells, "the stacks of an attempt before")
    with pytest.raises(CellFailed, match="the wiring"):
        tried(lab, plan, store)
    assert not stacks(store, plan).exists()


def test_a_worker_that_is_killed_has_not_crashed(lab: Any) -> None:
    plan, store = planned(lab, f"signal{signal.SIGKILL}"), lab.store()
    with pytest.raises(
        WorkerDied, match=r"its process ended with signal 9, having used \d+ MiB when last seen"
    ) as caught:
        tried(lab, plan, store)
    assert not isinstance(caught.value, Crashed)
    assert not list((store.root / "failures").iterdir())


def test_a_crash_is_told_where_its_stacks_cannot_be_kept(lab: Any) -> None:
    plan, store = planned(lab, "abort"), lab.store()
    (store.root / "failures").rmdir()
    (store.root / "failures").touch()
    with pytest.raises(Crashed, match=r"\(signal 6, SIGABRT\) while training crashing:net; try --layout"):
        tried(lab, plan, store)
    (lab.folder / "calm").touch()
    (store.root / "failures").unlink()
    assert tried(lab, plan, store).test_accuracy is not None, "nor is a missing folder in the way"


def test_what_a_worker_writes_is_passed_on_and_kept_nowhere(lab: Any, capfd: pytest.CaptureFixture[str]) -> None:
    plan, store = planned(lab, "well"), lab.store()
    assert not tried(lab, plan, store).cached
    steps = store.read(*plan.cells)["cost"]["steps"]
    assert steps > 3
    # What a process has written may be heard after the end of its cell.
    written, deadline = "", time.monotonic() + 30
    while written.count("\n") < steps and time.monotonic() < deadline:
        written += capfd.readouterr().err
        time.sleep(0.05)
    lines = [line for line in written.splitlines() if line]
    assert set(lines) == {"a word of the model's own"}
    assert len(lines) >= steps
    assert not list((store.root / "failures").iterdir())
    assert not list((store.root / "working").iterdir())


def test_the_crash_of_a_child_is_not_that_of_its_worker(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oneticket.lab.execution.engines.lastwords, "HANGS", 0.0)
    plan, store = planned(lab, "child"), lab.store()
    assert tried(lab, plan, store).test_accuracy is not None
    assert not list((store.root / "failures").iterdir())


def test_a_crash_can_be_sent_to_another_process() -> None:
    for crashed in (Crashed("vgg19", 11, "/store/failures/abc.txt"), Crashed("vgg19", signal.SIGABRT)):
        again = pickle.loads(pickle.dumps(crashed))
        assert (type(again), str(again), again.network, again.number) == (
            Crashed,
            str(crashed),
            "vgg19",
            crashed.number,
        )
