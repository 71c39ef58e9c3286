"""One run of the bench: the chosen rows measured, with the ceiling of the machine and what it is."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

import msgspec

from oneticket.bench.ceiling import measure_ceiling
from oneticket.bench.chain import measure_chain, measure_quick_start
from oneticket.bench.families import families
from oneticket.bench.gpu import LARGE, measure_gpu
from oneticket.bench.laboratory import measure_laboratory
from oneticket.bench.machine import cores, this_machine, with_threads
from oneticket.bench.outcome import Family, Outcome, Result
from oneticket.bench.rows import STEPS, Row, chosen
from oneticket.bench.steps import measure_steps
from oneticket.masks import Masks

REPEATS = 5


def run_bench(
    names: Sequence[str] = (),
    *,
    device: str = "cpu",
    short: bool = False,
    threads: int | None = None,
    repeats: int = REPEATS,
    loader_workers: int = 0,
    profile: bool = False,
    ticket: Masks | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Measure the rows of these names, all of the device by default; ``say`` hears how far it is.

    ``threads`` (one a core by default) are those of training steps and of the reference loop; the laboratory's workers
    have one each. ``ticket`` are masks for the sparse row. Raises InputError for an unknown row and where Pillow, which
    the reference loop needs, is not installed.
    """
    rows = chosen(names, device, short=short)
    threads = threads or cores()
    machine = this_machine(device)
    bf16 = bool(machine.bf16)
    with with_threads(threads):
        say("the ceiling: matrix products and copies of memory")
        ceiling = measure_ceiling(device, small=short)
        results: list[Result] = []

        def group(name: str) -> list[Row]:
            return [row for row in rows if row.group == name]

        if group("step"):
            results += measure_steps(
                group("step"), ceiling=ceiling, bf16=bf16, short=short, repeats=repeats,
                loader_workers=loader_workers, ticket=ticket, say=say,
            )  # fmt: skip
        for row in group("chain"):
            results.append(
                measure_chain(row, bf16=bf16, short=short, repeats=repeats, loader_workers=loader_workers, say=say)
            )
        for row in group("quick start"):
            results.append(measure_quick_start(row, repeats=repeats, say=say))
        results += measure_laboratory(group("laboratory"), short=short, repeats=repeats, say=say)
        if group("gpu"):
            results += measure_gpu(
                group("gpu"), ceiling=ceiling, device=device, short=short, repeats=repeats,
                loader_workers=loader_workers, say=say,
            )  # fmt: skip
        profiles = {}
        for entry in results if profile else ():
            if entry.floor is not None:
                say(f"{entry.row}: profile")
                profiles[entry.row] = _profile(entry.row, device, ticket, short=short)
    order = [row.name for row in rows]
    if short:  # the targets are those of the full size
        results = [msgspec.structs.replace(entry, met=None) for entry in results]
    return Outcome(
        date=datetime.date.today().isoformat(),
        short=short,
        device=device,
        threads=threads,
        repeats=repeats,
        loader_workers=loader_workers,
        machine=machine,
        ceiling=ceiling,
        results=sorted(results, key=lambda entry: order.index(entry.row)),
        profiles=profiles,
    )


def _profile(name: str, device: str, ticket: Masks | None, *, short: bool) -> list[Family]:
    if name not in STEPS:
        return families(LARGE, device=device)
    workload = STEPS[name].short if short else STEPS[name].full
    return families(workload, None if workload.density == 1 else ticket or workload.masks())
