"""The one training loop: every network that oneticket trains goes through here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.data import BatchSource, as_batches
from oneticket.errors import InputError, unknown
from oneticket.kernels.plain import lay_out
from oneticket.kernels.pointwise import right_gradients
from oneticket.masks import Masks
from oneticket.randomness import Streams, seeded
from oneticket.training.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors
from oneticket.training.companion import Companion, Course
from oneticket.training.evaluation import evaluate
from oneticket.training.finiteness import check_finite, counted, finite_sum
from oneticket.training.heap import kept_heap
from oneticket.training.keeping import MaskKeeper
from oneticket.training.kernels import Kernels, choose_kernels
from oneticket.training.recipe import Recipe
from oneticket.training.schedule import learning_rates
from oneticket.training.shrinking import shrink
from oneticket.training.sparsifying import sparsify
from oneticket.training.standin import StandIn, independent_copy, trains_alike, unnoticed
from oneticket.training.step import Step

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Network, inputs and targets → mean loss of the batch, a scalar."""

LR_SCHEDULES = ("recipe", "last")
_CHECK_EVERY = 100  # steps between looks at the losses: each look waits for the device


class EpochRecord(msgspec.Struct, frozen=True):
    """One line of the history: after ``step`` optimiser steps. Accuracies are fractions; validation may be absent."""

    epoch: int
    step: int
    lr: float
    train_loss: float
    val_accuracy: float | None = None
    val_loss: float | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """The network at one moment: full state (parameters and buffers) and what the optimiser remembered."""

    state: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class Training(msgspec.Struct, frozen=True):
    """What a training leaves behind besides the trained network.

    ``steps`` and ``samples`` count the whole training, ``seconds`` this process only; ``resumed_at`` tells from which
    step it went on. ``masks`` are those at the end, which a companion may have made; ``work`` tells how many of the
    samples went through the network while its tensors, in the order of ``masks``, kept so many weights. ``kernels``
    says in which layout it was computed, and which layers were not computed in that.
    """

    history: list[EpochRecord]
    snapshots: dict[str, Snapshot]
    steps: int
    samples: int
    seconds: float
    resumed_at: int
    masks: Masks | None = None
    work: dict[tuple[int, ...], int] = {}
    kernels: Kernels = Kernels()


def train(
    model: nn.Module,
    train_set: Any,
    recipe: Recipe,
    *,
    masks: Masks | None = None,
    validation: Any = None,
    seed: int = 0,
    start: str | int | Step = 0,
    snapshots: Sequence[str | int | Step] = (),
    optimizer_state: dict[str, Tensor] | None = None,
    lr_schedule: str = "recipe",
    lr_factors: Mapping[str, float] | None = None,
    companion: Companion | None = None,
    objective: Objective | None = None,
    channels_last: bool = False,
    compact: bool = True,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Training:
    """Train ``model`` in place by ``recipe``; masked weights are exactly 0.0 throughout.

    Parameters
    ----------
    train_set, validation : whatever :func:`oneticket.data.as_batches` takes.
    masks : parameter name → boolean mask; those weights are zeroed before the first step and stay so.
    seed : the replicate; data order, augmentation and dropout come from its named streams.
    start : the moment of the recipe at which to begin (rewinding to step k continues with the schedule of step k).
    snapshots : moments at which to keep a copy of the network and of the optimiser's memory.
    optimizer_state : memory to begin with, as a snapshot holds it; fresh when None.
    lr_schedule : ``"recipe"``, or ``"last"`` for the recipe's last learning rate throughout (fine-tuning).
    lr_factors : parameter name → factor on its learning rate, 1 for those not named.
    companion : a method that acts while training (:class:`oneticket.training.Companion`).
    objective : the loss that is minimised, instead of the recipe's cross-entropy; ``validation`` must then be None.
    channels_last : lay 2-D convolutions out with the channels last, whose kernels run a third faster; only rounding
        differs. For networks that do not rely on the layout of what flows through them (``x.view`` does). Before the
        first step values and gradients of each layer are compared with those of the plain layout, once for a machine;
        layers that differ, and networks that can't be looked at, are computed plainly, which ``kernels`` of the result
        and the log ``oneticket.kernels`` say.
    compact : with masks, compute without dead channels and without masked weights, where that is faster; only rounding
        differs. Not with a companion or an objective, which look at the network themselves.
    checkpoint : where to keep the running state; a checkpoint found there is continued.

    Raises NonFiniteLoss, with step and learning rate, when the loss is no longer finite.
    """
    began = time.perf_counter()
    batches = as_batches(train_set, recipe.batch_size, augmentation=recipe.augment, device=device)
    judge = None
    if validation is not None:
        # Images are judged as they are trained on: with the statistics of the training split.
        normalisation = getattr(batches, "normalisation", None)
        judge = as_batches(validation, max(recipe.batch_size, 512), normalisation=normalisation, device=device)
    streams = Streams(seed)
    per_epoch = batches.steps_per_epoch
    if not per_epoch:
        raise InputError("there is nothing to train on: the training set is empty")
    if lr_schedule not in LR_SCHEDULES:
        raise unknown("lr_schedule", lr_schedule, LR_SCHEDULES)
    total = recipe.epochs * per_epoch
    step = first = Step.parse(start).iterations(per_epoch)
    if step > total:
        raise InputError(f"the training would start at step {step}, but it has only {total}", where="start")
    wanted = {str(Step.parse(moment)): Step.parse(moment).iterations(per_epoch) for moment in snapshots}
    for name, moment in wanted.items():
        if not first <= moment <= total:
            raise InputError(f"the moment {name} is outside the training", expected=f"steps {first} to {total}")

    rate = learning_rates(recipe.schedule, recipe.lr, Step.parse(recipe.warmup), total, per_epoch)
    last_rate = rate(total - 1)
    lossy = objective or _cross_entropy(recipe.label_smoothing)
    _check_masks(model, masks)
    model.to(device)
    companion = companion or Companion()
    alone = type(companion) is Companion  # then nothing but the optimiser touches weights
    plain = compact and masks is not None and alone and objective is None
    with right_gradients(model):
        choose = partial(choose_kernels, loss=lossy, batches=batches, precision=recipe.precision)
        kernels = choose(model, channels_last=channels_last)
        lay_out(model, kernels.layout)
        standin = _standin(model, masks, batches, recipe, kernels.memory_format) if plain else StandIn(model, masks)
        if standin.model is not model:
            kernels = choose(standin.model, channels_last=kernels.layout == "channels-last")
    full, model, layout = model, standin.model, kernels.memory_format
    lay_out(model, kernels.layout)
    optimizer = recipe.make_optimizer(model, standin.narrow(lr_factors or {}))
    standin.attach(optimizer)
    taken: dict[str, Snapshot] = {}
    history: list[EpochRecord] = []
    work: dict[tuple[int, ...], int] = {}
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        step = saved["step"]
        history = [msgspec.convert(record, EpochRecord) for record in saved["history"]]
        work = saved["work"]
        taken = {name: Snapshot(*parts) for name, parts in saved["snapshots"].items()}
    elif optimizer_state is not None:
        load_optimizer_tensors(model, optimizer, standin.narrow(optimizer_state))

    def take() -> None:
        for moment in [name for name, at in wanted.items() if at == step and name not in taken]:
            state = {name: _copied(value) for name, value in standin.widen(model.state_dict()).items()}
            memory = {name: value.cpu() for name, value in standin.widen(optimizer_tensors(model, optimizer)).items()}
            taken[moment] = Snapshot(state, memory)

    resumed_at = step
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = set(wanted.values())
    recent: list[tuple[Tensor, int, float]] = []
    lr = -1.0
    weights_kept = tuple(int(mask.sum()) for mask in masks.values()) if plain and masks is not None else None
    autocast = torch.autocast(device.partition(":")[0], dtype=torch.bfloat16) if recipe.precision == "bf16" else None
    kept_masks = _keeper(model, optimizer, standin.masks, undisturbed=alone)
    with (
        kept_masks as keeper, standin.for_the_time(full), kept_heap(), counted(first, work, history),
        right_gradients(model), ExitStack() as at_work,
    ):  # fmt: skip
        course = Course(
            model, optimizer, keeper, tuple(standin.masks or ()), total, first, per_epoch, batches.samples,
            lambda *keys: streams.generator("mask", *keys),
        )  # fmt: skip
        companion.begin(course)
        if saved is not None:
            model.load_state_dict(standin.narrow(saved["model"]))
            load_optimizer_tensors(model, optimizer, standin.narrow(saved["optimizer"]))
            if not plain:
                course.replace(saved["masks"])
            companion.resume(saved["companion"])
        take()
        at_work.enter_context(kernels.at_work(model))  # last: a method may ask of which type a layer is
        while step < total:
            epoch = step // per_epoch
            skipped = step - epoch * per_epoch
            model.train()
            loss_sum, seen = 0.0, 0
            order, augmentation = streams.generator("data-order", epoch), streams.generator("augmentation", epoch)
            with seeded(streams.seed("noise", epoch)):
                for position, (inputs, targets) in enumerate(batches.epoch(order, augmentation)):
                    if position < skipped:
                        continue
                    now = last_rate if lr_schedule == "last" else rate(step)
                    if now != lr:
                        lr = now
                        for group in optimizer.param_groups:
                            group["lr"] = lr * group["factor"]
                    if inputs.dim() == 4:
                        inputs = inputs.contiguous(memory_format=layout)
                    companion.before_forward(step)
                    kept = weights_kept or keeper.kept
                    work[kept] = work.get(kept, 0) + len(targets)
                    with autocast or nullcontext():
                        loss = lossy(model, inputs, targets)
                    penalty = companion.penalty()
                    for parameter in stepped:  # what `zero_grad` does, at a third of its cost
                        parameter.grad = None
                    (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
                    companion.after_backward(step)
                    if recipe.clip_norm is not None:
                        keeper.mask_gradients()  # the norm must not count weights that do not exist
                        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
                    optimizer.step()
                    companion.after_step(step)
                    step += 1
                    recent.append((loss.detach(), len(targets), lr))
                    seen += len(targets)
                    if step in moments:
                        take()
                    if len(recent) == _CHECK_EVERY or step % per_epoch == 0:
                        loss_sum += finite_sum(recent, step)
                        recent = []
            val_accuracy, val_loss = None, None
            with companion.judged():
                if judge is not None:
                    val_accuracy, val_loss = evaluate(model, judge, channels_last=kernels.layout == "channels-last")
            check_finite(model, val_loss, step, lr)
            record = EpochRecord(epoch + 1, step, lr, loss_sum / max(seen, 1), val_accuracy, val_loss)
            history.append(record)
            if checkpoint is not None and step < total and checkpoint.due():
                checkpoint.save(
                    {
                        "step": step,
                        "model": standin.widen(model.state_dict()),
                        "optimizer": standin.widen(optimizer_tensors(model, optimizer)),
                        "history": [msgspec.to_builtins(entry) for entry in history],
                        "work": work,
                        "snapshots": {name: [s.state, s.optimizer] for name, s in taken.items()},
                        "masks": dict((plain and masks) or course.masks),
                        "companion": companion.state(),
                    }
                )
            if on_epoch is not None:
                standin.expand_into(full)  # which they may look at
                on_epoch(record)
        companion.finish()
        result = masks if plain or masks is None else course.masks
    lay_out(full, "contiguous")
    seconds = time.perf_counter() - began
    return Training(history, taken, total - first, sum(work.values()), seconds, resumed_at, result, work, kernels)


def _cross_entropy(label_smoothing: float) -> Objective:
    def lossy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs), targets, label_smoothing=label_smoothing)

    return lossy


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _check_masks(model: nn.Module, masks: Masks | None) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in (masks or {}).items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise InputError(f"the mask '{name}' fits no parameter of the model", expected="equal names and shapes")


def _standin(
    model: nn.Module, masks: Masks | None, batches: BatchSource, recipe: Recipe, layout: torch.memory_format
) -> StandIn:
    # A network that can be trained, but neither copied nor asked about noise, is trained as it is.
    with suppress(Exception), unnoticed():
        example, _ = next(iter(batches.ordered()))
        copied = independent_copy(model)
        shrunk = shrink(copied, masks, example)
        shrunk.model.to(memory_format=layout)  # type: ignore[call-overload]
        found = sparsify(shrunk, example, recipe.precision)
        if found.model is not copied and trains_alike(StandIn(copied, masks), found, example, recipe.precision):
            found.fill_from(model)
            return found
    return StandIn(model, masks)


def _keeper(
    model: nn.Module, optimizer: torch.optim.Optimizer, masks: Masks | None, *, undisturbed: bool
) -> MaskKeeper:
    parameters = dict(model.named_parameters())
    masked = [(parameters[name], mask) for name, mask in (masks or {}).items()]
    return MaskKeeper(optimizer, masked, undisturbed=undisturbed)
