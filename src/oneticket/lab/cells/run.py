"""The computation of one cell: description and parents' files in, the files of the finished cell out."""

from __future__ import annotations

import math
import platform
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from oneticket.data import AnySet, BatchSource, Splits, as_batches, counted, normalisation_of, open_data
from oneticket.data.cache import State, compared, trust
from oneticket.errors import InputError, NonFiniteLoss
from oneticket.kernels.machine import this_machine
from oneticket.kernels.trial import Layout
from oneticket.lab.cells.assembly import Assembled, assemble
from oneticket.lab.cells.description import Description, PretrainingStart
from oneticket.lab.cells.outcome import Outcome, diverged_outcome, inherited_divergence, is_binary, trained_outcome
from oneticket.lab.cells.own_code import OwnCode
from oneticket.lab.cells.parents import ParentCells, view_of
from oneticket.lab.cells.records import CORRECT
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import Correct, save_masks, save_state
from oneticket.masks import Masks
from oneticket.methods import PRETRAININGS, PretrainingTask
from oneticket.ticket import versions
from oneticket.training import (
    Checkpoint,
    Cost,
    EpochRecord,
    OnEpoch,
    Runtime,
    Training,
    evaluate,
    train,
    training_flops,
)
from oneticket.training.kernels import Kernels
from oneticket.training.objectives import Objective
from oneticket.trust.importing import load_code


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a worker may be without progress, a step of a training, before it counts as stalled.

    Parameters
    ----------
    seconds : at least so long.
    steps : and at least as long as so many of its slowest steps: where memory is swapped, steps are slow.
    """

    seconds: float = 600.0
    steps: float = 20.0

    def limit(self, slowest: float) -> float:
        """Seconds without progress after which a worker has stalled whose slowest step took ``slowest`` seconds."""
        return max(self.seconds, self.steps * slowest)


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """Calls to whoever watches the computation of a cell.

    After each epoch; after each step, and each batch of an evaluation; before each checkpoint.
    """

    on_epoch: Callable[[EpochRecord], None] | None = None
    on_step: Callable[[], None] | None = None
    before_save: Callable[[], None] | None = None


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a worker needs besides the description; none changes a result beyond rounding.

    Parameters
    ----------
    store, cache, folder : paths of the store, of the data cache, and of the folder whose Python files may be imported.
    packages : the installed packages that may be imported.
    code : the modules that register what cells name, each with the digest that its code must have.
    runtime : how its trainings are computed; each cell has its own checkpoint.
    checkpoint_every : seconds between two checkpoints.
    patience : how long a worker may be without progress.
    compared : cached data that the run has compared with its fingerprint, so that its workers need not.
    """

    store: str
    cache: str
    folder: str
    packages: tuple[str, ...] = ()
    code: dict[str, str] = {}
    runtime: Runtime = Runtime(layout="channels-last", threads=1)
    checkpoint_every: float = 20.0
    patience: Patience = Patience()
    compared: tuple[State, ...] = ()


def compared_data(cells: Iterable[Description], cache: Path) -> tuple[State, ...]:
    """Compare the data of ``cells`` with its fingerprints, once for all workers."""
    for data in {id(cell.data): cell.data for cell in cells}.values():
        open_data(data, cache=cache)
    return tuple(compared())


class Clock:
    """The seconds that a cell took, those before its process was killed included, as far as its checkpoints tell."""

    def __init__(self) -> None:
        self._began, self._earlier = time.perf_counter(), 0.0

    def seconds(self) -> float:
        return self._earlier + time.perf_counter() - self._began

    def resumed(self, seconds: float) -> None:
        # Of several parts, the one that was saved last tells the time of all.
        self._earlier = max(self._earlier, seconds)


class CellCheckpoint(Checkpoint):
    """The checkpoint of a part of a cell, which says of which, and how long the cell had taken when it was written."""

    def __init__(self, path: Path, *, every: float, cell: str, clock: Clock, watch: Watch = Watch()) -> None:
        super().__init__(path, every=every, on_step=watch.on_step)
        self._owner, self._clock, self._watch = f"{cell}/{path.stem}", clock, watch

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state``, with owner and time."""
        if self._watch.before_save is not None:
            self._watch.before_save()
        super().save({**state, "of": self._owner, "seconds": self._clock.seconds()})

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None without one, or if it is damaged or another cell's."""
        state = super().load()
        if state is None:
            return None
        if state.pop("of", self._owner) != self._owner:  # earlier versions did not say
            self.drop("is the checkpoint of another training")
            return None
        self._clock.resumed(state.pop("seconds", 0.0))
        return state


class _Made(msgspec.Struct, frozen=True):
    """The result of a cell, besides its files of tensors."""

    history: Sequence[EpochRecord]
    steps: int
    samples: int
    flops: tuple[int, int]
    outcome: Outcome
    kernels: Kernels


def run_cell(cell: Description, workplace: Workplace, working: Path, watch: Watch = Watch()) -> dict[str, Any]:
    """Compute ``cell`` into the folder ``working`` and return the content of its ``cell.json``.

    Continues from the checkpoint in ``working`` if there is one. Divergence is a valid outcome, not an error.
    """
    clock = Clock()
    trust(workplace.compared)
    folder, packages = Path(workplace.folder), workplace.packages
    load_code(workplace.code, folder, packages)
    if OwnCode().of(cell.start) != (cell.code or {}):
        raise InputError("the code of what it names has changed since the run began", expected="a new run")
    parents = ParentCells(Store(Path(workplace.store)), Path(workplace.cache), folder, packages)
    inherited = inherited_divergence(cell, parents.store)
    made = (
        _compute(cell, parents, workplace, working, clock, watch)
        if inherited is None
        else _nothing(cell, parents, workplace, inherited)
    )
    with (working / "history.jsonl").open("wb") as file:
        file.writelines(msgspec.json.encode(record) + b"\n" for record in made.history)
    train_flops, masked_flops = made.flops
    cost = Cost(
        steps=made.steps,
        samples=made.samples,
        train_flops=train_flops,
        masked_flops=masked_flops,
        seconds=clock.seconds(),
    )
    return {
        "description": msgspec.to_builtins(cell),
        "environment": _environment(workplace.runtime, made.kernels),
        "cost": msgspec.to_builtins(cost),
        "outcome": msgspec.to_builtins(made.outcome),
    }


def _compute(
    cell: Description, parents: ParentCells, workplace: Workplace, working: Path, clock: Clock, watch: Watch
) -> _Made:
    """Train and evaluate the network, and write the tensors that other cells may build on."""
    splits = parents.splits(cell)
    normalisation, objective = normalisation_of(splits.train), cell.objective

    def batches(part: AnySet, size: int, **options: Any) -> BatchSource:
        return as_batches(part, size, normalisation=normalisation, device=workplace.runtime.device, **options)

    def checkpoint(part: str) -> Checkpoint:
        path = working / "checkpoint" / f"{part}.pt"
        return CellCheckpoint(path, every=workplace.checkpoint_every, cell=cell.identity, clock=clock, watch=watch)

    model = (begun := assemble(cell, parents)).model
    example = cell.network.blank().to(workplace.runtime.device)
    train_set = batches(splits.train, cell.recipe.batch_size, augmentation=cell.recipe.augment)
    validation = batches(splits.validation, 512) if len(splits.validation) else None
    asked = Kernels(_layout_for(cell, workplace))
    runtime = msgspec.structs.replace(workplace.runtime, layout=asked.layout)
    try:
        if isinstance(cell.start, PretrainingStart):
            training = PRETRAININGS[cell.start.task](
                PretrainingTask(
                    model, cell.network.head, train_set, cell.recipe, cell.seed, runtime=runtime,
                    checkpoint=checkpoint, on_epoch=watch.on_epoch,
                )
            )  # fmt: skip
        else:
            training = train(
                model,
                train_set,
                cell.recipe,
                masks=begun.masks,
                start=begun.start,
                validation=validation,
                snapshots=cell.snapshots,
                callbacks=[OnEpoch(watch.on_epoch)] if watch.on_epoch else (),
                seed=cell.seed,
                runtime=msgspec.structs.replace(runtime, checkpoint=checkpoint("training")),
                **objective.given(),
            )
        judge = partial(_judge, model, training, objective, device=workplace.runtime.device, on_batch=watch.on_step)
        correct = Correct()
        note = correct.note if objective.name == "classification" else None
        tested = judge(batches(splits.test, 512), on_outputs=note) if cell.test else None
        untrained = judge(validation, "validation")[0] if validation is not None and not training.history else None
    except NonFiniteLoss as error:
        flops = training_flops(model.to(workplace.runtime.device), example, error.samples, begun.masks)
        outcome = _diverged(cell, model, str(error), splits)
        return _Made(error.history, error.steps, error.samples, flops, outcome, asked)
    correct.save(working / CORRECT)
    return _concluded(cell, parents, begun, training, example, tested, counted(splits.test), untrained, working)


def _concluded(
    cell: Description,
    parents: ParentCells,
    begun: Assembled,
    training: Training,
    example: torch.Tensor,
    tested: tuple[float, float] | None,
    test_images: int,
    untrained: float | None,
    working: Path,
) -> _Made:
    """The result of a training that finished; writes the tensors that other cells may build on."""
    model, masks = begun.model, training.masks or begun.masks
    kept = masks if masks is not None else Masks.full(dict(view_of(model, cell.network).weights()))
    # Paths ignore the input binarisation of a binary network.
    traced = parents.build(cell.network, cell.seed) if is_binary(cell) else model
    outcome = trained_outcome(
        cell, model, training, masks, kept, before=begun.state, traced=traced, tested=tested, test_images=test_images,
        untrained=untrained, naturally_zero=begun.naturally_zero,
    )  # fmt: skip
    save_tensors(working, model, training, masks, kept)
    flops = training_flops(model, example, training.samples, masks, training.work)
    return _Made(training.history, training.steps, training.samples, flops, outcome, training.kernels)


def _judge(
    model: nn.Module, training: Training, objective: Objective, split: BatchSource, name: str = "test", **told: Any
) -> tuple[float, float]:
    """Accuracy and loss on a split; raises NonFiniteLoss where the loss is not a finite number."""
    told |= {"channels_last": training.kernels.layout == "channels-last", **objective.given()}
    with training.kernels.at_work(model):
        accuracy, loss = evaluate(model, split, **told)
    if not math.isfinite(loss):
        text = f"the {name} loss is {loss} after {training.steps} steps"
        raise NonFiniteLoss(text, training.steps, training.samples, training.history)
    return accuracy, loss


def save_tensors(working: Path, model: nn.Module, training: Training, masks: Masks | None, kept: Masks) -> None:
    """Write the tensors that other cells may build on."""
    for moment, snapshot in training.snapshots.items():
        save_state(working / f"weights-{moment}.safetensors", snapshot.state)
        save_state(working / f"optimizer-{moment}.safetensors", snapshot.optimizer)
    save_masks(working / "masks.safetensors", kept)
    save_state(working / "weights-end.safetensors", {n: t.cpu() for n, t in model.state_dict().items()}, masks)


def _layout_for(cell: Description, workplace: Workplace) -> Layout:
    """The layout to train ``cell`` in, provided its operations are correct in it."""
    # Built-in networks are known not to rely on the layout; nothing is known about the user's own.
    built_in = cell.network.code is None
    return workplace.runtime.layout if built_in and len(cell.network.input) == 3 else "contiguous"


def _nothing(cell: Description, parents: ParentCells, workplace: Workplace, reason: str) -> _Made:
    """The result of a cell that can't be trained because a parent diverged."""
    model = parents.build(cell.network, cell.seed)
    outcome = _diverged(cell, model, reason, parents.splits(cell))
    return _Made((), 0, 0, (0, 0), outcome, Kernels(_layout_for(cell, workplace)))


def _diverged(cell: Description, model: nn.Module, reason: str, splits: Splits) -> Outcome:
    validated, test_images = len(splits.validation) > 0, counted(splits.test)
    return diverged_outcome(cell, _prunable(model, cell), reason, validated=validated, test_images=test_images)


def _prunable(model: nn.Module, cell: Description) -> int:
    return view_of(model, cell.network).total


def _environment(runtime: Runtime, kernels: Kernels) -> dict[str, Any]:
    where = runtime.device
    device = torch.cuda.get_device_name(where) if where.startswith("cuda") else platform.machine()
    machine = this_machine()
    seldom = {
        "restricted": machine.restricted,
        "plain_layers": kernels.plain,
        "kernels_unchecked": kernels.unchecked,
        "sparse_layers": list(kernels.sparse),
    }
    return {
        **versions(),
        "device": f"{where} ({device})",
        "processor": machine.processor,
        "instructions": machine.instructions,
        "threads": runtime.threads,
        "layout": kernels.layout,
        **{key: value for key, value in seldom.items() if value},
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
