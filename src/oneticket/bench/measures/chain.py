"""A whole search: the laboratory with two workers against the reference loop, the same steps; and the quick start."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec.structs import asdict, replace

from oneticket.bench.outcome import Result, result
from oneticket.bench.pairing import Spread, in_turns, ratio
from oneticket.bench.rivals import reference
from oneticket.bench.rows import Row
from oneticket.bench.synthetic import command, search_experiment
from oneticket.bench.workload import LR, Workload
from oneticket.prunable import Prunable

SEEDS, WORKERS = 2, 2
QUICK_STARTS = 3  # repetitions of the quick start at most: it takes a minute and has no rival

FULL = Workload(model="resnet20", width=0.5, shape=(3, 32, 32), steps=20, epochs=2)
SHORT = Workload(model="resnet20", width=0.25, shape=(3, 32, 32), steps=1, epochs=2, batch_size=32)
ROUNDS, ROUNDS_SHORT = 10, 2


def reference_chain(workload: Workload, seeds: int, rounds: int, loader_workers: int = 0) -> float:
    """Seconds of the searches of all seeds, one after the other, with the threads that torch has here."""
    batches = reference.loader(
        workload.images(),
        workload.normalisation(),
        workload.batch_size,
        augment=workload.augment,
        workers=loader_workers,
    )
    began = time.perf_counter()
    for seed in range(seeds):
        model = workload.network(seed)
        reference.search(model, batches, Prunable(model).names, epochs=workload.epochs, lr=LR, rounds=rounds, prune=0.2)
    return time.perf_counter() - began


def our_chain(folder: Path, file: Path) -> float:
    """Seconds of ``oneticket run`` on an empty store, all but the decoding of the images."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    return command(folder, "run", file, "--store", "store", "--workers", str(WORKERS))


def steps_of(store: Path) -> int:
    """Optimiser steps of all cells of a store."""
    return sum(json.loads(file.read_text("utf-8"))["cost"]["steps"] for file in store.glob("cells/*/*/cell.json"))


def reference_steps(workload: Workload, seeds: int, rounds: int) -> int:
    """Optimiser steps of the reference chain: the dense training, the rounds after the first, and the last ticket."""
    return seeds * workload.steps * (2 * workload.epochs + (rounds - 1) * (workload.epochs - 1))


def measure_chain(
    row: Row,
    *,
    bf16: bool,
    short: bool,
    repeats: int,
    loader_workers: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """The result of the row "chain"; oneticket computes in bf16 if the processor has it."""
    workload, rounds = (SHORT, ROUNDS_SHORT) if short else (FULL, ROUNDS)
    ours = replace(workload, precision="bf16" if bf16 else "float32")
    with tempfile.TemporaryDirectory(prefix="oneticket-bench-") as place:
        folder = Path(place)
        file = search_experiment(folder, ours, seeds=SEEDS, rounds=rounds)
        # Decodes the images, which is done once on a machine, so it is not timed.
        command(folder, "plan", file, "--store", "store")
        contestants: dict[str, Callable[[], float]] = {
            "reference": partial(reference_chain, workload, SEEDS, rounds, loader_workers),
            "ours": partial(our_chain, folder, file),
        }
        seconds = in_turns(contestants, repeats, lambda turn: say(f"{row.name}: {turn}"))
        steps = steps_of(folder / "store")
    details = {
        **asdict(ours),
        "rounds": rounds,
        "seeds": SEEDS,
        "workers": WORKERS,
        "samples": workload.steps * workload.batch_size,
        "optimiser steps": {"ours": steps, "reference": reference_steps(workload, SEEDS, rounds)},
    }
    return result(row, ratio(seconds["reference"], seconds["ours"]), seconds=seconds, details=details)


def measure_quick_start(row: Row, *, repeats: int, say: Callable[[str], None] = lambda _: None) -> Result:
    """The result of the row "quickstart": ``oneticket demo`` in an empty folder, with an empty cache."""

    def quick_start() -> float:
        with tempfile.TemporaryDirectory(prefix="oneticket-bench-") as place:
            return command(Path(place), "demo")

    repeats = min(repeats, QUICK_STARTS)
    seconds = in_turns({"ours": quick_start}, repeats, lambda turn: say(f"{row.name}: {turn}"))
    return result(row, Spread.of(seconds["ours"]), seconds=seconds)
