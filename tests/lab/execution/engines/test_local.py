"""The local engine: one process per cell, whose end, however it comes, is told and harms nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from oneticket.lab.cells.store import Store
from oneticket.lab.execution.engines import ENGINES, Done, LocalEngine, Progress, Task, WorkerDied
from oneticket.lab.execution.scheduler import ATTEMPTS, RunListener, Summary, missing
from oneticket.lab.planning.plan import Plan
from oneticket.lab.results.table import COLUMNS, remember, tidy

PATIENCE = 600.0  # seconds until what has not happened is taken never to happen
DENSE = {"targets": ["digits@sgd"], "arms": ["dense"]}

TROUBLE = """
import errno, os
import torch
from torch import nn

class Trouble(nn.Module):
    def __init__(self, inputs, classes, kind):
        super().__init__()
        self.body, self.head, self.kind = nn.Linear(inputs, 8), nn.Linear(8, classes), kind

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            if self.kind == "memory":
                raise MemoryError
            if self.kind == "allocator":
                torch.empty(2**60)
            if self.kind == "disk":
                raise OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")
            if self.kind == "exit":
                os._exit(3)
            if self.kind == "error":
                raise KeyError("the wiring")
        return self.head(self.body(x.flatten(1)))

def net(input_shape, classes, kind: str):
    c, h, w = input_shape
    return Trouble(c * h * w, classes, kind)
"""


def facts(store: Store) -> list[tuple[object, ...]]:
    """The tidy table without what depends on the clock."""
    return [tuple(row[column] for column in COLUMNS if column != "seconds") for row in tidy(store)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_depend_neither_on_processes_nor_on_what_runs_beside(lab: Any, workers: int) -> None:
    plan = lab.plan(seeds=1)
    here, there = lab.store("here"), lab.store("there")
    for store in (here, there):
        remember(plan, store)
    lab.run(plan, here)
    summary = lab.run(plan, there, LocalEngine(), workers)
    assert (summary.trained, summary.complete) == (len(plan.cells), True)
    assert facts(there) == facts(here)
    for identity in plan.cells:
        ends = [(store.folder(identity) / "weights-end.safetensors").read_bytes() for store in (here, there)]
        assert ends[0] == ends[1]


UNSEEN = """
from torch import nn

class Unseen(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.body, self.head = nn.Linear(inputs, 8), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)))

    def __deepcopy__(self, memo):
        raise TypeError("there is only one")

def net(input_shape, classes):
    c, h, w = input_shape
    return Unseen(c * h * w, classes)
"""


def test_what_is_said_of_kernels_is_told_by_the_run_and_not_by_each_worker(
    lab: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (lab.folder / "unseen.py").write_text(UNSEEN)
    plan = lab.plan(seeds=2, model="unseen:net", head="head", recipe__sgd__precision="bf16", transfer=[DENSE])
    store = lab.store()
    summary = lab.run(plan, store, LocalEngine(), 2)
    reason = "the network can't be examined (TypeError: there is only one)"
    assert [str(path) for path in summary.plain] == [f"unseen:net as a whole: {reason}  [2 cells]"]
    assert {store.environment(identity)["kernels_unchecked"] for identity in plan.cells} == {reason}
    assert capfd.readouterr().err == ""


def test_progress_is_told_for_every_epoch(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer=[DENSE])
    ((identity, cell),) = plan.cells.items()
    local, told = LocalEngine(), list[Progress]()
    done = local.submit(Task(cell, lab.workplace(lab.store())), told.append).result(timeout=PATIENCE)
    local.close()
    assert [(p.cell, p.epoch, p.epochs) for p in told] == [(identity, 1, 3), (identity, 2, 3), (identity, 3, 3)]
    assert not done.cached
    assert done.val_accuracy == told[-1].val_accuracy
    assert done.test_accuracy is not None


def test_a_cell_that_is_there_already_is_not_computed_again(lab: Any) -> None:
    plan, store = lab.plan(seeds=1, transfer=[DENSE]), lab.store()
    lab.run(plan, store)
    local = LocalEngine()
    (cell,) = plan.cells.values()
    assert local.submit(Task(cell, lab.workplace(store)), lambda _: None).result(timeout=PATIENCE) == Done(cached=True)
    local.close()
    assert not list((store.root / "working").iterdir())


class Killer(RunListener):
    """Kills the worker of a cell when it makes progress, so many times."""

    def __init__(self, local: LocalEngine, times: int) -> None:
        self.local, self.times = local, times
        self.reasons: list[str] = []

    def progress(self, progress: Progress) -> None:
        for process in list(self.local._running):
            if self.times and process.pid and process.is_alive():
                self.times -= 1
                os.kill(process.pid, signal.SIGKILL)
                process.join()

    def retried(self, cell: str, reason: str, *, alone: bool = True) -> None:
        self.reasons.append(reason)


def test_a_killed_worker_is_started_again_and_goes_on_to_the_same_result(lab: Any) -> None:
    plan = lab.plan(seeds=1, transfer=[DENSE], recipe__sgd__epochs=150)
    whole, killed = lab.store("whole"), lab.store("killed")
    for store in (whole, killed):
        remember(plan, store)
    lab.run(plan, whole)
    local = LocalEngine()
    killer = Killer(local, times=2)
    summary = lab.run(plan, killed, local, listener=killer, checkpoint_every=0)
    assert summary.complete
    assert len(killer.reasons) == 2
    assert all("its process ended with" in reason for reason in killer.reasons)
    assert facts(killed) == facts(whole)


@pytest.mark.parametrize(
    ("kind", "reasons", "tried"),
    [
        ("memory", ["memory exhausted at", "MiB"], ATTEMPTS),
        ("allocator", ["memory exhausted at", "MiB"], ATTEMPTS),
        ("exit", ["its process ended with exit code 3"], ATTEMPTS),
        ("disk", ["the disk is full", "No space left on device: weights.safetensors"], 1),
        ("error", ["KeyError: 'the wiring' (trouble.py:22)"], 1),
    ],
)
def test_how_a_cell_failed_is_told_in_one_line(lab: Any, kind: str, reasons: list[str], tried: int) -> None:
    (lab.folder / "trouble.py").write_text(TROUBLE)
    sys.modules.pop("trouble", None)
    plan = lab.plan(seeds=1, transfer=[DENSE], model={"name": "trouble:net", "options": {"kind": kind}})
    store = lab.store()
    started: list[str] = []

    class Counting(RunListener):
        def started(self, cell: str) -> None:
            started.append(cell)

    summary: Summary = lab.run(plan, store, LocalEngine(), listener=Counting())
    (reason,) = summary.failed.values()
    assert all(part in reason for part in reasons), reason
    assert "\n" not in reason
    assert len(started) == tried
    assert not any(store.has(identity) for identity in plan.cells)


def test_a_cell_that_diverges_tells_step_and_rate_and_is_finished(lab: Any) -> None:
    grid = {"targets": ["digits@sgd", "digits@adam"], "arms": ["dense"]}
    plan: Plan = lab.plan(seeds=1, transfer=[grid], recipe__sgd__lr=1e20)
    store = lab.store()
    summary = lab.run(plan, store, LocalEngine(), 2)
    ((cell, reason),) = summary.diverged.items()
    assert plan.cells[cell].recipe.optimizer == "sgd"
    assert "at step" in reason
    assert "(learning rate 1e+20)" in reason
    assert summary.trained == 2
    assert summary.complete
    assert not missing(plan, store)


def test_a_process_that_cannot_be_started_is_a_worker_that_died(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    local = LocalEngine()
    monkeypatch.setattr(ForkServerProcess, "start", nothing)
    (cell,) = lab.plan(seeds=1, transfer=[DENSE]).cells.values()
    future = local.submit(Task(cell, lab.workplace(lab.store())), lambda _: None)
    with pytest.raises(WorkerDied, match="Resource temporarily unavailable"):
        future.result(timeout=PATIENCE)


def test_closing_ends_the_running_cells(lab: Any) -> None:
    plan, store = lab.plan(seeds=1, transfer=[DENSE], recipe__sgd__epochs=10**6), lab.store()
    (cell,) = plan.cells.values()
    local, told = LocalEngine(), threading.Event()
    local.submit(Task(cell, lab.workplace(store)), lambda _: told.set())
    assert told.wait(PATIENCE)
    (process,) = local._running
    local.close()
    assert not process.is_alive()
    assert not any(store.has(identity) for identity in plan.cells)
    with store.claimed(cell.identity):
        pass


def test_the_engine_is_found_by_name() -> None:
    assert isinstance(ENGINES["local"](), LocalEngine)


# -- a whole run, ended from outside ------------------------------------------------------------------------------
LONG = """
name = "long"
model = { name = "lenet-300-100", options = { width = 0.05 } }
seeds = 2
[data.digits]
builtin = "digits"
[recipe.sgd]
optimizer = "sgd"
lr = 0.01
epochs = 100000
[[transfer]]
targets = ["digits@sgd"]
arms = ["dense"]
"""


def in_session(session: int) -> set[int]:
    """The processes of a session that are alive."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            state, _, _, sid = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(sid) == session and state != "Z":
            found.add(int(entry.name))
    return found


@pytest.fixture
def long_run(tmp_path: Path, cache: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of two cells that would last for hours, in a session of its own, both cells under way."""
    (tmp_path / "long.toml").write_text(LONG)
    store = tmp_path / "store"
    arguments = [sys.executable, "-m", "oneticket", "run", "long.toml", "--store", str(store), "--cache", str(cache)]
    run = subprocess.Popen(
        [*arguments, "--workers", "2"], cwd=tmp_path, start_new_session=True, text=True, stderr=subprocess.PIPE,
        # Whoever runs the tests in the background has Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        assert seen(lambda: len(list(store.glob("leases/*.lease"))) == 2 or run.poll() is not None)
        assert run.poll() is None
        yield run
    finally:
        for pid in in_session(run.pid):
            os.kill(pid, signal.SIGKILL)
        run.communicate()


def seen(happened: Callable[[], bool]) -> bool:
    """Whether something that no event tells of happens, looked at again and again."""
    deadline = time.monotonic() + PATIENCE
    while not (there := happened()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return there


def gone(session: int) -> bool:
    return seen(lambda: not in_session(session))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_no_worker_outlives_a_run_that_is_killed(long_run: subprocess.Popen[str]) -> None:
    assert len(in_session(long_run.pid)) >= 4, "the run, the server, two workers"
    os.kill(long_run.pid, signal.SIGKILL)
    long_run.wait()
    assert gone(long_run.pid)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_ctrl_c_ends_a_run_with_130_one_line_and_no_process_left(long_run: subprocess.Popen[str]) -> None:
    os.killpg(long_run.pid, signal.SIGINT)
    _, told = long_run.communicate(timeout=PATIENCE)
    assert long_run.returncode == 130
    assert "Interrupted. Finished work is kept" in told
    assert "Traceback" not in told
    assert gone(long_run.pid)
