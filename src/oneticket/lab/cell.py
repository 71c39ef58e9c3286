"""The computation of one cell: description and parents' files in, the files of the finished cell out."""

from __future__ import annotations

import math
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from oneticket.data import ImageBatches, Normalisation, open_data
from oneticket.errors import InputError, NonFiniteLoss
from oneticket.lab.arms import DENSE, TICKET
from oneticket.lab.description import ArmStart, Description, Initial, Network, TicketRef
from oneticket.lab.store import Store
from oneticket.lab.tensors import load_masks, load_state, save_masks, save_state
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build, code_digest
from oneticket.prunable import Prunable
from oneticket.pruning import control, kept_count
from oneticket.randomness import Streams
from oneticket.search import State, masked_state, next_masks, round_start
from oneticket.ticket import versions
from oneticket.training import Checkpoint, Cost, EpochRecord, Training, evaluate, forward_flops, train
from oneticket.weights import Origins, RescalingContext, draw, rescaling

CONVERGED_WITHIN = 0.005
"""A training has converged at the first epoch whose validation accuracy is within half a point of its last one."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker needs besides the description, none of which changes a result beyond rounding."""

    store: str
    cache: str
    folder: str
    threads: int = 1
    device: str = "cpu"
    checkpoint_every: float = 20.0


class Start(msgspec.Struct, frozen=True):
    """What a training begins with: the state of the network, its masks (None: dense), and options of the loop."""

    state: State
    masks: Masks | None
    options: dict[str, Any]


def run_cell(
    cell: Description, setting: Setting, working: Path, on_epoch: Callable[[EpochRecord], None] | None = None
) -> dict[str, Any]:
    """Compute ``cell`` into the folder ``working`` and return the content of its ``cell.json``.

    Goes on from the checkpoint in ``working`` when there is one. Raises NonFiniteLoss when the training diverges.
    """
    began = time.perf_counter()
    store, cache, folder = Store(Path(setting.store)), Path(setting.cache), Path(setting.folder)
    splits = open_data(cell.data, cache=cache)
    normalisation = Normalisation.of(splits.train)
    start = _start(cell, store, folder)
    model = _build(cell.network, cell.seed, folder)
    model.load_state_dict(start.state)

    def batches(images: Any, size: int, **options: Any) -> ImageBatches:
        return ImageBatches(images, size, normalisation=normalisation, device=setting.device, **options)

    training = train(
        model,
        batches(splits.train, cell.recipe.batch_size, augmentation=cell.recipe.augment),
        cell.recipe,
        masks=start.masks,
        validation=batches(splits.validation, 512) if len(splits.validation) else None,
        seed=cell.seed,
        snapshots=cell.snapshots,
        # What is built in is known not to rely on the layout; of a user's own network nothing is known.
        channels_last=cell.network.code is None and len(cell.network.input) == 3,
        device=setting.device,
        checkpoint=Checkpoint(working / "checkpoint" / "training.pt", every=setting.checkpoint_every),
        on_epoch=on_epoch,
        **start.options,
    )
    outcome = _outcome(model, training, start.masks, cell)
    if cell.test:
        accuracy, loss = evaluate(model, batches(splits.test, 512), device=setting.device)
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"the test loss is {loss} after {training.steps} steps")
        outcome |= {"test_accuracy": accuracy, "test_loss": loss}

    for moment, snapshot in training.snapshots.items():
        save_state(working / f"weights-{moment}.safetensors", snapshot.state)
        save_state(working / f"optimizer-{moment}.safetensors", snapshot.optimizer)
    view = _view(model, cell.network)
    masks = start.masks if start.masks is not None else Masks.full(dict(view.weights()))
    save_masks(working / "masks.safetensors", masks)
    save_state(working / "weights-end.safetensors", {n: t.cpu() for n, t in model.state_dict().items()}, start.masks)
    with (working / "history.jsonl").open("wb") as file:
        file.writelines(msgspec.json.encode(record) + b"\n" for record in training.history)
    example = torch.zeros(1, *cell.network.input, device=setting.device)
    dense_flops, masked_flops = forward_flops(model, example, start.masks)
    cost = Cost(
        steps=training.steps,
        samples=training.samples,
        train_flops=3 * dense_flops * training.samples,
        masked_flops=3 * masked_flops * training.samples,
        seconds=time.perf_counter() - began,
    )
    return {
        "description": msgspec.to_builtins(cell),
        "environment": _environment(setting),
        "cost": msgspec.to_builtins(cost),
        "outcome": outcome,
    }


# -- where a training starts --------------------------------------------------------------------------------------
def _start(cell: Description, store: Store, folder: Path) -> Start:
    fresh = _build(cell.network, cell.seed, folder)
    initial = _state(fresh)
    if isinstance(cell.start, Initial):
        return Start(initial, None, {})
    if isinstance(cell.start, ArmStart):
        return _arm_start(cell, cell.start, fresh, store, folder)
    ticket = cell.start.ticket
    masks = ticket_masks(ticket, store, folder)
    search = ticket.search
    state, options = round_start(search, _rewound(ticket, store), _trained(ticket, store), initial)
    if search.optimizer_state == "rewound" and search.method != "fine-tune":
        options["optimizer_state"] = load_state(store.folder(ticket.dense) / f"optimizer-{search.rewind}.safetensors")
    return Start(masked_state(state, masks), masks, options)


def _arm_start(cell: Description, arm: ArmStart, fresh: nn.Module, store: Store, folder: Path) -> Start:
    """mask × weights × rescale × method, composed."""
    streams = Streams(cell.seed)
    view = _view(fresh, cell.network)
    ticket = arm.ticket
    if ticket is not None:
        masks = ticket_masks(ticket, store, folder)
    else:
        masks = _first(Masks.full(dict(view.weights())), kept_count(arm.density, view.total))
    if arm.mask not in (DENSE, TICKET):
        masks = control[arm.mask](masks, streams.generator("mask", arm.mask, f"{arm.density:.12g}"))
    origins = Origins(
        # W_0 is that of the network the ticket was found in: with other classes even its body is drawn differently.
        initial=lambda: _ticket_initial(ticket, store, folder) if ticket else _state(fresh),
        redrawn=lambda: _state(_build(cell.network, cell.seed, folder, draw_key="redrawn")),
        rewound=(lambda: _rewound(ticket, store)) if ticket else None,
        trained=(lambda: _trained(ticket, store)) if ticket else None,
    )
    state = _with_head(draw[arm.weights](origins), _state(fresh), cell.network.head)
    state = masked_state(state, masks)
    context = RescalingContext(
        redrawn=draw.entry(arm.weights).facts.get("drawn") == "afresh",
        generator=streams.generator("init", "rescale", arm.rescale),
    )
    state |= rescaling[arm.rescale]({name: state[name] for name in masks}, masks, context)
    options: dict[str, Any] = {"fine-tune": {"lr_schedule": "last"}, "lr-rewind": {"start": arm.rewind}}.get(
        arm.method, {}
    )
    return Start(state, masks, options)


def ticket_masks(ticket: TicketRef, store: Store, folder: Path) -> Masks:
    """The masks of a ticket, pruned anew from what the round before it left: cheap, so never stored twice."""
    parent = msgspec.convert(store.read(ticket.previous)["description"], Description)
    alive = load_masks(store.folder(ticket.previous) / "masks.safetensors")
    if ticket.round == 0:
        return alive
    model = _build(parent.network, parent.seed, folder)
    initial = _state(model)
    model.load_state_dict(_trained(ticket, store))
    return next_masks(
        _view(model, parent.network),
        initial=lambda: initial,
        search=ticket.search,
        density=ticket.density,
        alive=alive,
        seed=parent.seed,
        number=ticket.round,
    )


def _ticket_initial(ticket: TicketRef, store: Store, folder: Path) -> State:
    source = msgspec.convert(store.read(ticket.dense)["description"], Description)
    return _state(_build(source.network, source.seed, folder))


def _rewound(ticket: TicketRef, store: Store) -> State:
    return load_state(store.folder(ticket.dense) / f"weights-{ticket.search.rewind}.safetensors")


def _trained(ticket: TicketRef, store: Store) -> State:
    folder = store.folder(ticket.previous)
    return load_state(folder / "weights-end.safetensors", load_masks(folder / "masks.safetensors"))


def _build(network: Network, seed: int, folder: Path, *, draw_key: str = "") -> nn.Module:
    """The network at its initialisation; the head comes from a stream of its own, so that every arm shares it."""
    streams = Streams(seed)
    spec = ModelSpec(name=network.name, options=network.options)
    if code_digest(spec, folder=folder) != network.code:
        raise InputError(
            "the file of the model has changed since the run began", where=network.name, expected="a new run of it"
        )

    def drawn(key: int) -> nn.Module:
        return build(spec, input_shape=network.input, classes=network.classes, seed=key, folder=folder)

    model = drawn(streams.seed("init", *([draw_key] if draw_key else [])))
    headed = drawn(streams.seed("head"))
    model.load_state_dict(_with_head(_state(model), _state(headed), network.head))
    return model


def _with_head(state: State, giver: State, head: str) -> State:
    return {name: giver[name] if name.startswith(f"{head}.") else tensor for name, tensor in
            {**giver, **state}.items()}  # fmt: skip


def _view(model: nn.Module, network: Network) -> Prunable:
    return Prunable(model, head=network.head, prune_head=network.prune_head, only=network.prunable)


def _first(masks: Masks, count: int) -> Masks:
    """The first ``count`` entries kept: where only the density matters, any masks of that count will do."""
    flat = torch.arange(masks.total) < count
    pieces = torch.split(flat, [tensor.numel() for tensor in masks.values()])
    return Masks({name: piece.view(t.shape) for (name, t), piece in zip(masks.items(), pieces, strict=True)})


def _state(model: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


# -- what a training leaves ---------------------------------------------------------------------------------------
def _outcome(model: nn.Module, training: Training, masks: Masks | None, cell: Description) -> dict[str, Any]:
    judged = [(r.val_accuracy, r) for r in training.history if r.val_accuracy is not None]
    best = max(judged, key=lambda pair: pair[0])[1] if judged else None
    last = training.history[-1].val_accuracy if training.history else None
    # A rewound training counts its steps from the rewind point.
    begun = training.history[-1].step - training.steps if training.history else 0
    reached = [r.step - begun for accuracy, r in judged if last is not None and accuracy >= last - CONVERGED_WITHIN]
    kept = masks if masks is not None else Masks.full(dict(_view(model, cell.network).weights()))
    values: dict[str, Tensor] = dict(model.state_dict())
    return {
        "val_accuracy": last,
        "best_epoch": best.epoch if best else None,
        "best_val_accuracy": best.val_accuracy if best else None,
        "steps_to_converge": reached[0] if reached else None,
        "density": kept.density,
        "kept": kept.kept,
        "prunable": kept.total,
        "collapsed": kept.collapsed(),
        "masked_nonzero": sum(int((values[name].cpu()[~mask] != 0).sum()) for name, mask in kept.items()),
    }


def _environment(setting: Setting) -> dict[str, Any]:
    device = torch.cuda.get_device_name(setting.device) if setting.device.startswith("cuda") else platform.machine()
    return {
        **versions(),
        "device": f"{setting.device} ({device})",
        "threads": setting.threads,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
