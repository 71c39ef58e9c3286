"""One GPU: several replicates together in the laboratory, and a step as a fraction of the device's ceiling."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from msgspec.structs import asdict, replace

from oneticket.bench.measures.ceiling import Ceiling, floor
from oneticket.bench.measures.steps import time_ours, time_reference
from oneticket.bench.outcome import Result, result
from oneticket.bench.pairing import Spread, in_turns, ratio
from oneticket.bench.rows import Row
from oneticket.bench.synthetic import search_experiment
from oneticket.bench.workload import Workload
from oneticket.errors import OneticketError
from oneticket.lab.cells.run import Workplace
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.engines import ENGINES, Progress
from oneticket.lab.execution.scheduler import RunListener, run_plan
from oneticket.lab.planning.plan import make_plan
from oneticket.lab.spec.experiment import load_experiment
from oneticket.training import Runtime

REPLICATES = 6
TOGETHER = Workload(model="resnet20", shape=(3, 32, 32), steps=200, epochs=30, precision="bf16")
LARGE = Workload(model="vgg19", shape=(3, 32, 32), steps=20, epochs=2, batch_size=512, precision="bf16")
_SHORTER = 10


class Clock(RunListener):
    """Notes when each cell has finished each of its epochs."""

    def __init__(self) -> None:
        self.ends: dict[str, list[tuple[float, int]]] = {}

    def progress(self, progress: Progress) -> None:
        """An epoch of a cell is over."""
        self.ends.setdefault(progress.cell, []).append((time.perf_counter(), progress.epoch))


def epochs_per_second(ends: Mapping[str, Sequence[tuple[float, int]]]) -> float:
    """Epochs a second of all cells together, while every one of them is running.

    ``ends`` holds for each cell pairs of a moment, in seconds, and the epochs finished by then; between two moments
    progress is taken to be even. The time that counts begins with the last cell's first moment and ends with the first
    cell's last one.
    """
    begin = max(moments[0][0] for moments in ends.values())
    end = min(moments[-1][0] for moments in ends.values())
    if end <= begin:
        raise OneticketError("the replicates did not run together: raise the number of epochs")
    done = 0.0
    for moments in ends.values():
        times, epochs = zip(*moments, strict=True)
        first, last = np.interp([begin, end], times, epochs)
        done += float(last - first)
    return done / (end - begin)


def time_together(folder: Path, file: Path, workload: Workload, device: str) -> float:
    """Seconds for the images of one step, all replicates together, each a cell of the laboratory."""
    plan = make_plan(load_experiment(file), folder=folder, cache=folder / "cache")
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = Store.open(Path(place) / "store", create=True)
        workplace = Workplace(
            store=str(store.root), cache=str(folder / "cache"), folder=str(folder),
            runtime=Runtime(device=device, layout="channels-last", threads=1),
        )  # fmt: skip
        summary = run_plan(plan, store, ENGINES["local"](), workplace, workers=REPLICATES, listener=clock)
    if not summary.complete:
        raise OneticketError(f"a replicate failed: {next(iter(summary.failed.values()))}")
    return 1 / (epochs_per_second(clock.ends) * workload.steps)


def measure_gpu(
    rows: Sequence[Row],
    *,
    ceiling: Ceiling,
    device: str,
    short: bool,
    repeats: int,
    loader_workers: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Result]:
    """The results of rows of the group "gpu", as they come, measured on ``device`` ("cuda")."""
    for row in rows:
        if row.unit == "×":
            workload = replace(TOGETHER, steps=TOGETHER.steps // _SHORTER) if short else TOGETHER
            yield _together(row, workload, device, repeats, loader_workers, say)
        else:
            yield _share_of_ceiling(row, LARGE, ceiling, device, repeats, say)


def _together(
    row: Row, workload: Workload, device: str, repeats: int, loader_workers: int, say: Callable[[str], None]
) -> Result:
    alone = replace(workload, steps=10, epochs=2)
    with tempfile.TemporaryDirectory(prefix="oneticket-bench-") as place:
        folder = Path(place)
        file = search_experiment(folder, workload, seeds=REPLICATES, rounds=0)
        contestants: dict[str, Callable[[], float]] = {
            "reference": partial(time_reference, alone, None, device, loader_workers),
            "alone": partial(time_ours, alone, None, device),
            "ours": partial(time_together, folder, file, workload, device),
        }
        seconds = in_turns(contestants, repeats, lambda turn: say(f"{row.name}: {turn}"))
    return result(
        row,
        ratio(seconds["reference"], seconds["ours"]),
        seconds=seconds,
        against={"alone": ratio(seconds["alone"], seconds["ours"])},
        details={**asdict(workload), "replicates": REPLICATES},
    )


def _share_of_ceiling(
    row: Row, workload: Workload, ceiling: Ceiling, device: str, repeats: int, say: Callable[[str], None]
) -> Result:
    least = floor(workload, ceiling)
    contestants = {"ours": partial(time_ours, workload, None, device)}
    seconds = in_turns(contestants, repeats, lambda turn: say(f"{row.name}: {turn}"))
    shares = [100 * least.compute_ms / (1e3 * s) for s in seconds["ours"]]
    return result(row, Spread.of(shares), seconds=seconds, floor=least, details=asdict(workload))
