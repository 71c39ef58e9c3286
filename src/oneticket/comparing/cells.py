"""The trainings of a comparison: each cell of the plan is computed and committed to a store."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from oneticket.comparing.given import Given, GivenParents
from oneticket.errors import NonFiniteLoss
from oneticket.lab.cells.assembly import Assembled, assemble
from oneticket.lab.cells.description import Description
from oneticket.lab.cells.outcome import Outcome, diverged_outcome, inherited_divergence, trained_outcome
from oneticket.lab.cells.parents import view_of
from oneticket.lab.cells.run import save_tensors
from oneticket.lab.cells.store import Store
from oneticket.lab.planning.plan import Plan
from oneticket.masks import Masks
from oneticket.ticket import versions
from oneticket.training import Cost, Runtime, evaluate, train, training_flops

OnTraining = Callable[[int, int, str], None]
"""Called after each training with how many are done, how many there are, and what it was."""


def run_all(plan: Plan, given: Given, store: Store, runtime: Runtime, on_training: OnTraining | None) -> None:
    """Train all networks of ``plan``, parents before children; weights that no other needs any more are removed."""
    parents = GivenParents(store, given, plan.cells)
    waiting = Counter(parent for cell in plan.cells.values() for parent in cell.parents)
    for number, (identity, cell) in enumerate(plan.cells.items(), start=1):
        working = store.root / "working" / identity
        working.mkdir(parents=True)
        store.commit(identity, working, _computed(cell, parents, given, runtime, working))
        for done in (identity, *cell.parents):
            waiting[done] -= done != identity
            if not waiting[done]:
                _forget_tensors(store, done)
        if on_training is not None:
            on_training(number, len(plan.cells), plan.labels[identity])


def _forget_tensors(store: Store, identity: str) -> None:
    for file in store.folder(identity).glob("*.safetensors"):
        file.unlink()


@dataclass(frozen=True)
class _Done:
    """What a training came to: its outcome, its steps and samples, and its FLOPs, dense and mask-aware."""

    outcome: Outcome
    steps: int = 0
    samples: int = 0
    flops: tuple[int, int] = (0, 0)


def _computed(
    cell: Description, parents: GivenParents, given: Given, runtime: Runtime, working: Path
) -> Mapping[str, Any]:
    """Train and judge the network of ``cell``; its record, with its tensors in ``working``."""
    began = time.perf_counter()
    inherited = inherited_divergence(cell, parents.store)
    if inherited is not None:
        done = _Done(_diverged(cell, parents, given, inherited))
    else:
        begun = assemble(cell, parents)
        try:
            done = _trained(cell, begun, given, runtime, working)
        except NonFiniteLoss as error:
            if given.objective.name != "classification":
                raise  # only there guessing has an accuracy
            done = _Done(_diverged(cell, parents, given, str(error)), error.steps, error.samples)
    cost = Cost(
        steps=done.steps,
        samples=done.samples,
        train_flops=done.flops[0],
        masked_flops=done.flops[1],
        seconds=time.perf_counter() - began,
    )
    return {
        "description": msgspec.to_builtins(cell),
        "environment": {**versions(), "device": runtime.device},
        "cost": msgspec.to_builtins(cost),
        "outcome": msgspec.to_builtins(done.outcome),
    }


def _trained(cell: Description, begun: Assembled, given: Given, runtime: Runtime, working: Path) -> _Done:
    model, objective = begun.model, given.objective.given()
    run = train(
        model, given.data, cell.recipe, masks=begun.masks, start=begun.start, validation=given.validation,
        snapshots=cell.snapshots, seed=cell.seed, runtime=runtime, **objective,
    )  # fmt: skip

    def judge(data: Any) -> tuple[float, float]:
        return evaluate(model, data, device=runtime.device, **objective)

    tested = judge(given.test) if cell.test else None
    if tested is not None and not math.isfinite(tested[1]):
        raise NonFiniteLoss(f"the test loss is {tested[1]}", run.steps, run.samples, run.history)
    untrained = judge(given.validation)[0] if given.validation is not None and not run.history else None
    model.cpu()
    masks = run.masks or begun.masks
    kept = masks if masks is not None else Masks.full(dict(view_of(model, cell.network).weights()))
    outcome = trained_outcome(
        cell, model, run, masks, kept, before=begun.state, traced=model if given.is_followed else None,
        tested=tested, test_images=given.test.samples, untrained=untrained, naturally_zero=begun.naturally_zero,
    )  # fmt: skip
    if given.objective.name != "classification" or given.objective.metric != "accuracy":
        outcome = msgspec.structs.replace(outcome, test_images=msgspec.UNSET)  # the metric counts no samples
    save_tensors(working, model, run, masks, kept)
    return _Done(outcome, run.steps, run.samples, training_flops(model, given.example, run.samples, masks, run.work))


def _diverged(cell: Description, parents: GivenParents, given: Given, reason: str) -> Outcome:
    model = parents.build(cell.network, cell.seed)
    prunable, validated = view_of(model, cell.network).total, given.validation is not None
    return diverged_outcome(cell, prunable, reason, validated=validated, test_images=given.test.samples)
