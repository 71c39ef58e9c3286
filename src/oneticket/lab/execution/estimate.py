"""Estimates: how long the missing cells of a plan will take, measured rather than guessed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Collection
from pathlib import Path

import torch

from oneticket.data import as_batches, normalisation_of, open_data
from oneticket.lab.cells.description import ArmStart, Description, Round
from oneticket.lab.cells.rates import cycles_of
from oneticket.lab.cells.store import Store
from oneticket.lab.execution.scheduler import missing
from oneticket.lab.planning.plan import Plan
from oneticket.methods import METHODS
from oneticket.models import ModelSpec, build
from oneticket.training import Step

STEPS = 4  # timed, after equally many to warm up
OVERHEAD = 0.1  # seconds to start a worker and to write a cell
SEEN = 10  # finished cells of a kind and a density that are read; more would add nothing

Kind = tuple[int, int, int]
Times = dict[float, float]
"""Seconds per step by density: the kernels of kept weights make sparser networks cheaper."""


def estimated_seconds(
    plan: Plan,
    *,
    store: Store | None,
    cache: Path,
    folder: Path,
    packages: Collection[str] = (),
    device: str = "cpu",
) -> float:
    """Seconds of one worker for all cells of ``plan`` that ``store`` lacks.

    For each kind of training (network, data, recipe), the time of a step comes from the plan's finished cells of that
    kind with the nearest density; before the first is finished, it is measured on a few steps of the dense network.
    """
    lacking = missing(plan, store)
    known = _known(plan, store, lacking) if store is not None and lacking else {}
    steps: dict[tuple[Kind, str, int], int] = {}
    total = 0.0
    for cell in lacking.values():
        kind = _kind(cell)
        if kind not in known:
            known[kind] = {1.0: _seconds_per_step(cell, cache, folder, packages, device)}
        length = _begins(cell), cycles_of(cell.start)
        if (kind, *length) not in steps:
            steps[kind, *length] = _steps(cell, *length, cache)
        total += OVERHEAD + _nearest(known[kind], _density(cell)) * steps[kind, *length]
    return total


def _known(plan: Plan, store: Store, lacking: Collection[str]) -> dict[Kind, Times]:
    """Seconds per step of each kind that has finished cells, by their densities."""
    seen: dict[Kind, dict[float, list[float]]] = {}
    for identity, cell in plan.cells.items():
        times = seen.setdefault(_kind(cell), {}).setdefault(_density(cell), [])
        if identity not in lacking and len(times) < SEEN:
            cost = store.figures(identity)
            if cost["steps"]:
                times.append(cost["seconds"] / cost["steps"])
    found = {kind: {d: statistics.median(each) for d, each in times.items() if each} for kind, times in seen.items()}
    return {kind: times for kind, times in found.items() if times}


def _density(cell: Description) -> float:
    """The fraction of the weights that is trained; 1 for methods that make their masks on the way."""
    if isinstance(cell.start, Round):
        return cell.start.ticket.density
    if isinstance(cell.start, ArmStart) and METHODS.entry(cell.start.method).facts.makes is None:
        return cell.start.density
    return 1.0


def _nearest(times: Times, density: float) -> float:
    """The time at the density whose ratio to ``density`` is nearest to 1."""
    return times[min(times, key=lambda other: abs(math.log(other / density)))]


def _kind(cell: Description) -> Kind:
    # All cells of a plan share the same network, data and recipe objects, which the plan keeps alive.
    return id(cell.network), id(cell.data), id(cell.recipe)


def _begins(cell: Description) -> str:
    """The moment of its recipe at which a training begins; empty for its first step."""
    if isinstance(cell.start, Round) and cell.start.ticket.search.method != "fine-tune":
        return str(cell.start.ticket.search.rewind)
    if not isinstance(cell.start, ArmStart):
        return ""
    return f"{cell.recipe.epochs}ep" if METHODS.entry(cell.start.method).facts.start == "end" else cell.start.rewind


def _steps(cell: Description, begins: str, cycles: int, cache: Path) -> int:
    samples = len(open_data(cell.data, cache=cache).train)
    per_epoch = -(-samples // cell.recipe.batch_size)
    return cycles * cell.recipe.epochs * per_epoch - Step.parse(begins or 0).iterations(per_epoch)


def _seconds_per_step(cell: Description, cache: Path, folder: Path, packages: Collection[str], device: str) -> float:
    splits = open_data(cell.data, cache=cache)
    network = cell.network
    spec = ModelSpec(name=network.name, options=network.options)
    model = build(spec, **network.form, seed=0, folder=folder, packages=packages)
    model = model.to(device).train()
    batches = as_batches(
        splits.train,
        cell.recipe.batch_size,
        normalisation=normalisation_of(splits.train),
        augmentation=cell.recipe.augment,
        device=device,
    )
    optimizer, objective = cell.recipe.make_optimizer(model), cell.objective
    times = []
    generator = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    for number, (inputs, targets) in enumerate(batches.epoch(generator, generator)):
        objective.loss(model, inputs, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
        if number + 1 == 2 * STEPS:
            break
    return statistics.median(times[STEPS:] or times)
