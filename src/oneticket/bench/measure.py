"""One run of the bench: the chosen rows, or a step of every model, with the machine and its ceiling."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from oneticket.bench.machine import cores, this_machine, with_threads
from oneticket.bench.measures.ceiling import measure_ceiling
from oneticket.bench.measures.chain import measure_chain, measure_quick_start
from oneticket.bench.measures.families import families
from oneticket.bench.measures.gpu import LARGE, measure_gpu
from oneticket.bench.measures.laboratory import measure_laboratory
from oneticket.bench.measures.models import chosen_models, measure_models
from oneticket.bench.measures.sparse import measure_sparse
from oneticket.bench.measures.steps import measure_steps
from oneticket.bench.outcome import Family, Outcome, Result, merged
from oneticket.bench.rows import STEPS, Row, chosen
from oneticket.masks import Masks

REPEATS = 5

Say = Callable[[str], None]
Keep = Callable[[Outcome], None]


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
    say: Say = lambda _: None,
    keep: Keep = lambda _: None,
) -> Outcome:
    """Measure rows of the bench: all rows first, then profiles.

    Parameters
    ----------
    names : Sequence[str], optional
        The rows; by default all rows of the device.
    device : str, default "cpu"
        "cpu" or "cuda".
    short : bool, default False
        Whether to measure the short form, which has no targets.
    threads : int, optional
        Threads of training steps and of the reference loop; by default one for each core, and one in the short form,
        which a busy neighbour disturbs less. The laboratory's workers have one each.
    repeats : int, default 5
        Turns of the contestants.
    loader_workers : int, default 0
        Processes of the reference's loader.
    profile : bool, default False
        Whether to profile the steps too.
    ticket : Masks, optional
        Masks for the sparse row.
    say : Callable[[str], None], optional
        Called with a line at each stage.
    keep : Callable[[Outcome], None], optional
        Called with the outcome so far after each row and each profile.

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        For an unknown row, and if Pillow, which the reference loop needs, is not installed.
    """
    rows = chosen(names, device, short=short)
    threads = threads or (1 if short else cores())
    with with_threads(threads):
        outcome = _nothing_yet(device, threads, say, short=short, repeats=repeats, loader_workers=loader_workers)
        for entry in _results(rows, outcome, ticket, say):
            # Targets are for the full size.
            outcome = merged(outcome, replace(outcome, results=[replace(entry, met=None) if short else entry]))
            keep(outcome)
        for entry in outcome.results if profile else ():
            if entry.floor is not None:
                say(f"{entry.row}: profile")
                found = _profile(entry.row, device, ticket, short=short)
                outcome = replace(outcome, profiles={**outcome.profiles, entry.row: found})
                keep(outcome)
    return outcome


def profile_models(
    names: Sequence[str] = (),
    *,
    threads: int | None = None,
    say: Say = lambda _: None,
    keep: Keep = lambda _: None,
) -> Outcome:
    """Measure a step of the named models, by default of all built-in ones, on the CPU; arguments as in `run_bench`."""
    models, threads = chosen_models(names), threads or cores()
    with with_threads(threads):
        outcome = _nothing_yet("cpu", threads, say)
        for entry in measure_models(models, ceiling=outcome.ceiling, bf16=bool(outcome.machine.bf16), say=say):
            outcome = replace(outcome, models=[*outcome.models, entry])
            keep(outcome)
    return outcome


def _nothing_yet(
    device: str, threads: int, say: Say, *, short: bool = False, repeats: int = 1, loader_workers: int = 0
) -> Outcome:
    say("the ceiling: matrix products and copies of memory")
    return Outcome(
        date=datetime.date.today().isoformat(),
        short=short,
        device=device,
        threads=threads,
        repeats=repeats,
        loader_workers=loader_workers,
        machine=this_machine(device),
        ceiling=measure_ceiling(device, small=short),
        results=[],
    )


def _results(rows: Sequence[Row], setting: Outcome, ticket: Masks | None, say: Say) -> Iterator[Result]:
    """The result of each row as soon as it has been measured."""
    ceiling, bf16, short, repeats = setting.ceiling, bool(setting.machine.bf16), setting.short, setting.repeats
    workers = setting.loader_workers
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    if "step" in groups:
        yield from measure_steps(
            groups["step"], ceiling=ceiling, bf16=bf16, short=short, repeats=repeats, loader_workers=workers,
            ticket=ticket, say=say,
        )  # fmt: skip
    yield from measure_sparse(groups.get("sparse", ()), short=short, repeats=repeats, say=say)
    for row in groups.get("chain", ()):
        yield measure_chain(row, bf16=bf16, short=short, repeats=repeats, loader_workers=workers, say=say)
    for row in groups.get("quick start", ()):
        yield measure_quick_start(row, repeats=repeats, say=say)
    yield from measure_laboratory(groups.get("laboratory", ()), short=short, repeats=repeats, say=say)
    if "gpu" in groups:
        yield from measure_gpu(
            groups["gpu"], ceiling=ceiling, device=setting.device, short=short, repeats=repeats,
            loader_workers=workers, say=say,
        )  # fmt: skip


def _profile(name: str, device: str, ticket: Masks | None, *, short: bool) -> list[Family]:
    if name not in STEPS:
        return families(LARGE, device=device)
    workload = STEPS[name].short if short else STEPS[name].full
    return families(workload, None if workload.density == 1 else ticket or workload.masks())
