"""The laboratory itself, on synthetic plans and stores: planning, answering, the overhead of a cell, the memory.

``python -m oneticket.bench.measures.laboratory FILE`` plans an experiment, schedules it with an engine that computes
nothing, and prints the time and memory that took. It runs in its own process, so that the memory is the scheduler's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from oneticket.bench.outcome import Result, result
from oneticket.bench.pairing import Spread, in_turns
from oneticket.bench.rows import Row
from oneticket.bench.synthetic import CELLS_A_SEED, command, large_experiment, timed_process, tiny_cells
from oneticket.lab.cells.description import Description
from oneticket.lab.cells.outcome import Outcome
from oneticket.lab.cells.run import Workplace
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.engines import Done, Progress, Task
from oneticket.lab.execution.scheduler import run_plan
from oneticket.lab.planning.plan import Plan, make_plan
from oneticket.lab.results.table import remember
from oneticket.lab.spec.experiment import load_experiment
from oneticket.training import Cost

PLANNED, ANSWERED, TINY = 100_000, 10_000, 21
SHORTER = 100  # by how much plans are smaller in the short form
TINY_SHORT = 4


class Idle:
    """An engine that computes nothing: every cell is done as soon as it is submitted."""

    def submit(self, task: Task, on_progress: Callable[[Progress], None]) -> Future[Done]:
        """A future that is done."""
        future: Future[Done] = Future()
        future.set_result(Done())
        return future

    def close(self) -> None:
        """Nothing runs."""


def schedule(file: Path) -> dict[str, float]:
    """Plan an experiment and schedule it idly: seconds of both, cells, and the peak memory of this process (MB).

    The data must be decoded already: that is done once on a machine, and by another process.
    """
    folder = file.parent
    began = time.perf_counter()
    plan = make_plan(load_experiment(file), folder=folder, cache=folder / "cache")
    planned = time.perf_counter()
    store = Store.open(folder / "store", create=True)
    remember(plan, store)
    workplace = Workplace(store=str(store.root), cache=str(folder / "cache"), folder=str(folder))
    run_plan(plan, store, Idle(), workplace, workers=2)
    return {
        "planning": planned - began,
        "scheduling": time.perf_counter() - planned,
        "cells": len(plan.cells),
        "megabytes": _most_memory(),
    }


def _most_memory() -> float:
    """Peak memory in MB. getrusage would include the memory of the process that started this one."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def finish(plan: Plan, store: Store) -> None:
    """Finish every cell of ``plan`` with made-up results, by the store's own commit."""
    remember(plan, store)
    cost = msgspec.to_builtins(Cost(steps=2, samples=2, train_flops=2, masked_flops=1, seconds=1.0))
    for number, (identity, cell) in enumerate(plan.cells.items()):
        working = store.root / "working" / identity
        working.mkdir()
        record = {"description": msgspec.to_builtins(cell), "environment": {}, "cost": cost}
        store.commit(identity, working, record | {"outcome": _outcome(cell, 0.5 + number / (4 * len(plan.cells)))})


def _outcome(cell: Description, accuracy: float) -> dict[str, Any]:
    density = getattr(cell.start, "density", 1.0)
    outcome = Outcome(
        val_accuracy=accuracy,
        best_epoch=1,
        best_val_accuracy=accuracy,
        steps_to_converge=1,
        density=density,
        kept=round(1000 * density),
        prunable=1000,
        collapsed=[],
        bytes=None,
        masked_nonzero=0,
        effective_density=None,
        dead_units=None,
        test_accuracy=accuracy if cell.test else UNSET,
        test_loss=1 - accuracy if cell.test else UNSET,
    )
    made: dict[str, Any] = msgspec.to_builtins(outcome)
    return made


def finish_moments(store: Path) -> list[float]:
    """When the cells of a store were finished, in seconds, the first one first."""
    return sorted(file.stat().st_mtime_ns / 1e9 for file in store.glob("cells/*/*/cell.json"))


def measure_laboratory(
    rows: Sequence[Row], *, short: bool, repeats: int, say: Callable[[str], None] = lambda _: None
) -> Iterator[Result]:
    """The results of rows of the group "laboratory", as they come."""
    scale = SHORTER if short else 1
    for row in rows:
        if row.name == "lab-answer":
            yield _answer(row, ANSWERED // scale, repeats, say)
        elif row.name == "lab-overhead":
            yield _overhead(row, TINY_SHORT if short else TINY, repeats, say)
    scheduled = [row for row in rows if row.name in ("lab-plan", "lab-memory")]
    if scheduled:
        yield from _schedule(scheduled, PLANNED // scale, repeats, say)


def _schedule(rows: Sequence[Row], cells: int, repeats: int, say: Callable[[str], None]) -> list[Result]:
    facts: list[dict[str, float]] = []

    def scheduled() -> float:
        with tempfile.TemporaryDirectory(prefix="oneticket-bench-") as place:
            folder = Path(place)
            command(folder, "plan", large_experiment(folder, CELLS_A_SEED), "--cache", folder / "cache")
            file = large_experiment(folder, cells)
            _, printed = timed_process([sys.executable, "-m", "oneticket.bench.measures.laboratory", str(file)], folder)
        facts.append(json.loads(printed))
        return facts[-1]["planning"]

    seconds = in_turns({"planning": scheduled}, repeats, lambda turn: say(f"planning: {turn}"))
    seconds["scheduling"] = [fact["scheduling"] for fact in facts]
    units = {"s": "planning", "MB": "megabytes"}
    return [
        result(row, Spread.of([fact[units[row.unit]] for fact in facts]), seconds=seconds, details={"cells": cells})
        for row in rows
    ]


def _answer(row: Row, cells: int, repeats: int, say: Callable[[str], None]) -> Result:
    with tempfile.TemporaryDirectory(prefix="oneticket-bench-") as place:
        folder = Path(place)
        file = large_experiment(folder, cells)
        cache = folder / "cache" / "oneticket"
        finish(make_plan(load_experiment(file), folder=folder, cache=cache), Store.open(folder / "store", create=True))
        seconds = in_turns(
            {
                "command": lambda: command(folder, "run", file, "--store", "store"),
                "start": lambda: command(folder, "list", "arm"),
            },
            repeats,
            lambda turn: say(f"{row.name}: {turn}"),
        )
    return result(row, Spread.of(seconds["command"]), seconds=seconds, details={"cells": cells})


def _overhead(row: Row, cells: int, repeats: int, say: Callable[[str], None]) -> Result:
    def after_the_first() -> float:
        with tempfile.TemporaryDirectory(prefix="oneticket-bench-") as place:
            folder = Path(place)
            command(folder, "run", tiny_cells(folder, cells), "--store", "store", "--workers", "1")
            moments = finish_moments(folder / "store")
        return (moments[-1] - moments[0]) / (len(moments) - 1)

    seconds = in_turns({"cell": after_the_first}, repeats, lambda turn: say(f"{row.name}: {turn}"))
    return result(row, Spread.of([1e3 * s for s in seconds["cell"]]), seconds=seconds, details={"cells": cells})


if __name__ == "__main__":
    print(json.dumps(schedule(Path(sys.argv[1]))))
