"""Training steps: oneticket against the reference loop, plain PyTorch and its own dense training, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import asdict

from oneticket.bench.measures.ceiling import Ceiling, floor
from oneticket.bench.outcome import Result, absent, result
from oneticket.bench.pairing import in_turns, ratio
from oneticket.bench.rivals import plain, reference
from oneticket.bench.rivals.ours import our_batches, train_ours
from oneticket.bench.rows import STEPS, Row
from oneticket.bench.workload import LR, Workload
from oneticket.errors import InputError
from oneticket.masks import Masks

AfterEpoch = Callable[[int], None]

NO_BF16 = "this processor has no bf16 in hardware, where it is slower than float32"


def seconds_per_step(train: Callable[[AfterEpoch], object], workload: Workload) -> float:
    """Seconds of one step, data included, over all epochs but the first, in which everything is set up.

    ``train`` trains one epoch more than ``workload.epochs`` and calls its argument at the end of each.
    """
    ends: list[float] = []
    train(lambda _: ends.append(time.perf_counter()))
    return (ends[-1] - ends[0]) / (workload.steps * workload.epochs)


def time_ours(workload: Workload, masks: Masks | None = None, device: str = "cpu") -> float:
    """Seconds of one step of oneticket."""
    batches = our_batches(workload, device)
    train = partial(train_ours, workload.network(), batches, workload.recipe(), masks=masks, device=device)
    return seconds_per_step(lambda tell: train(after_epoch=tell), workload)


def time_reference(workload: Workload, masks: Masks | None = None, device: str = "cpu", workers: int = 0) -> float:
    """Seconds of one step of the reference loop, in float32 also where the workload is bf16."""
    batches = reference.loader(
        workload.images(), workload.normalisation(), workload.batch_size, augment=workload.augment, workers=workers
    )
    train = partial(reference.train, workload.network(), batches, workload.epochs + 1, lr=LR, device=device)
    return seconds_per_step(lambda tell: train(masks=dict(masks or {}), after_epoch=tell), workload)


def time_plain(workload: Workload, masks: Masks | None = None, device: str = "cpu") -> float:
    """Seconds of one step of plain PyTorch, float32, on images normalised beforehand and not augmented."""
    images, (scale, offset) = workload.images(), workload.normalisation().factors("cpu")
    inputs = images.gather().float().mul_(scale).sub_(offset)
    model = plain.masked(workload.network(), masks or {})
    train = partial(plain.train, model, inputs, images.labels, workload.epochs + 1, lr=LR, device=device)
    return seconds_per_step(lambda tell: train(batch_size=workload.batch_size, after_epoch=tell), workload)


def measure_steps(
    rows: Sequence[Row],
    *,
    ceiling: Ceiling,
    bf16: bool,
    short: bool,
    repeats: int,
    loader_workers: int = 0,
    ticket: Masks | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Result]:
    """Measure rows of the group "step"; rows of one bout share the turns of the reference loop.

    Parameters
    ----------
    rows : Sequence[Row]
        Rows of the group "step".
    ceiling : Ceiling
        Of this machine, for the floors.
    bf16 : bool
        Whether the processor multiplies bfloat16 in hardware; if not, rows in bf16 are not measured.
    short : bool
        Whether to measure the short form.
    repeats : int
        Turns.
    loader_workers : int, default 0
        Processes of the reference's loader.
    ticket : Masks, optional
        The masks of a sparse row; by default those of its workload.
    say : Callable[[str], None], optional
        Called with a line at each turn.

    Yields
    ------
    Result
        One for each row, bout by bout.
    """
    workloads = {row.name: STEPS[row.name].short if short else STEPS[row.name].full for row in rows}
    unable = [row for row in rows if workloads[row.name].precision == "bf16" and not bf16]
    yield from (absent(row, NO_BF16) for row in unable)
    able = [row for row in rows if row not in unable]
    for bout in dict.fromkeys(STEPS[row.name].bout for row in able):
        entrants = {row: workloads[row.name] for row in able if STEPS[row.name].bout == bout}
        masks = _masks(next(iter(entrants.values())), ticket)
        contestants = _contestants(entrants, masks, loader_workers)
        seconds = in_turns(contestants, repeats, lambda turn, bout=bout: say(f"{bout}: {turn}"))  # type: ignore[misc]
        yield from (_result(row, workload, masks, seconds, ceiling) for row, workload in entrants.items())


def _masks(workload: Workload, ticket: Masks | None) -> Masks | None:
    """The masks of a bout: the ticket's where one is given and the workload is sparse."""
    masks = workload.masks()
    return masks if masks is None or ticket is None else _fitting(ticket, masks)


def _contestants(
    entrants: Mapping[Row, Workload], masks: Masks | None, loader_workers: int
) -> dict[str, Callable[[], float]]:
    """Those who take turns in a bout: the rivals, oneticket in each row, and its own dense training beside masks."""
    first = next(iter(entrants.values()))
    contestants: dict[str, Callable[[], float]] = {
        "reference": partial(time_reference, first, masks, workers=loader_workers),
        "plain": partial(time_plain, first, masks),
        **{row.name: partial(time_ours, workload, masks) for row, workload in entrants.items()},
    }
    if masks is not None:
        contestants["dense"] = partial(time_ours, first)
    return contestants


def _result(
    row: Row, workload: Workload, masks: Masks | None, seconds: Mapping[str, list[float]], ceiling: Ceiling
) -> Result:
    ours = seconds[row.name]
    others = {name: seconds[name] for name in ("reference", "plain", "dense") if name in seconds}
    return result(
        row,
        ratio(others["reference"], ours),
        seconds={"ours": ours, **others},
        against={name: ratio(times, ours) for name, times in others.items() if name != "reference"},
        floor=floor(workload, ceiling, masks),
        details=_details(workload, masks),
    )


def _fitting(ticket: Masks, masks: Masks) -> Masks:
    """``ticket``; InputError unless its masks have the names and shapes of ``masks``."""
    found, wanted = ({name: tuple(mask.shape) for name, mask in some.items()} for some in (ticket, masks))
    if found != wanted:
        name = next(n for n in {**wanted, **found} if wanted.get(n) != found.get(n))
        what = f"the ticket's mask '{name}' has the shape {found.get(name)}"
        raise InputError(what, where="--ticket", expected=f"{wanted.get(name)}, as the row trains at this size")
    return ticket


def _details(workload: Workload, masks: Masks | None) -> dict[str, Any]:
    facts: dict[str, Any] = asdict(workload)
    if masks is not None:
        facts["density"] = masks.density
        alive = [mask.flatten(1).any(1) for mask in masks.values()]
        facts["units with a weight"] = sum(int(a.sum()) for a in alive) / sum(len(a) for a in alive)
    return facts
