"""Parent cells: the weights, masks, data and networks that a cell takes from finished cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from oneticket.data import Splits, as_batches, normalisation_of, open_data
from oneticket.errors import InputError
from oneticket.lab.cells.description import Description, Network, TicketRef
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.tensors import load_masks, load_state
from oneticket.masks import Masks
from oneticket.models import ModelSpec, build, code_digest
from oneticket.prunable import Prunable
from oneticket.pruning.context import Batches, BatchLoss
from oneticket.randomness import Streams
from oneticket.search import Replayed, next_masks
from oneticket.weights import State

_BATCH = 128  # samples in each batch that a criterion sees


class ParentCells:
    """Reads finished cells for one worker; descriptions and initial weights are cached.

    Parameters
    ----------
    store : the store of the finished cells.
    data : the cache of decoded images.
    folder : the folder whose Python files may be imported; none when None.
    packages : the installed packages that may be imported.

    Attributes
    ----------
    loss : the loss of which criteria take gradients; None for that of each cell's recipe and data.
    """

    loss: BatchLoss | None = None

    def __init__(self, store: Store, data: Path, folder: Path | None, packages: Collection[str] = ()) -> None:
        self.store, self.data, self.folder, self.packages = store, data, folder, packages
        self.description: Callable[[str], Description] = cache(self._description)
        self.initial: Callable[[str], State] = cache(self._initial)

    def _description(self, cell: str) -> Description:
        return msgspec.convert(self.store.read(cell)["description"], Description)

    # -- networks ------------------------------------------------------------------------------------------------
    def build(self, network: Network, seed: int, *, draw_key: str = "") -> nn.Module:
        """The network at its initialisation; the head comes from a stream of its own, so that every arm shares it."""
        streams = Streams(seed)
        spec = ModelSpec(name=network.name, options=network.options)
        if code_digest(spec, folder=self.folder, packages=self.packages) != network.code:
            raise InputError(
                "the code of the model has changed since the run began", where=network.name, expected="a new run"
            )

        def drawn(key: int) -> nn.Module:
            return build(
                spec, input_shape=network.input, classes=network.classes, tokens=bool(network.tokens), seed=key,
                folder=self.folder, packages=self.packages,
            )  # fmt: skip

        model = drawn(streams.seed("init", *([draw_key] if draw_key else [])))
        headed = drawn(streams.seed("head"))
        model.load_state_dict(with_head(state_of(model), state_of(headed), network.head))
        return model

    def splits(self, cell: Description) -> Splits:
        """The data of a cell."""
        return open_data(cell.data, cache=self.data)

    def evidence(self, cell: Description) -> Batches:
        """Training batches of a cell in an order of their own, augmented as it trains, the same from the first on."""
        train = self.splits(cell).train
        source = as_batches(train, _BATCH, normalisation=normalisation_of(train), augmentation=cell.recipe.augment)
        return Replayed(source, Streams(cell.seed))

    def example(self, network: Network) -> Tensor:
        """Inputs for one pass that follows connections."""
        return network.blank()

    def loss_of(self, cell: Description) -> BatchLoss | None:
        """The loss of which criteria take gradients: the one that was given, or that of the cell's recipe and data."""
        return self.loss or cell.own_loss

    # -- tickets -------------------------------------------------------------------------------------------------
    def masks(self, ticket: TicketRef) -> Masks:
        """The masks of a ticket, pruned anew from the round before it: this is cheap, so they are not stored."""
        parent = self.description(ticket.previous)
        alive = load_masks(self.store.file(ticket.previous, "masks.safetensors"))
        if ticket.round == 0:
            return alive
        model = self.build(parent.network, parent.seed)
        initial = state_of(model)
        model.load_state_dict(self.trained(ticket))
        return next_masks(
            view_of(model, parent.network),
            initial=lambda: initial,
            batches=lambda: self.evidence(parent),
            search=ticket.search,
            density=ticket.density,
            alive=alive,
            seed=parent.seed,
            number=ticket.round,
            loss=self.loss_of(parent),
        )

    def _initial(self, dense: str) -> State:
        source = self.description(dense)
        return state_of(self.build(source.network, source.seed))

    def rewound(self, ticket: TicketRef) -> State:
        """W_k of the dense training with which the ticket's search began."""
        return load_state(self.store.file(ticket.dense, f"weights-{ticket.search.rewind}.safetensors"))

    def memory(self, ticket: TicketRef) -> State:
        """The optimiser's memory at k."""
        return load_state(self.store.file(ticket.dense, f"optimizer-{ticket.search.rewind}.safetensors"))

    def trained(self, ticket: TicketRef) -> State:
        """W_T of the round from which the ticket was pruned."""
        return self.end(ticket.previous)

    def end(self, cell: str) -> State:
        """The network at the end of a cell, masked weights at zero."""
        masks = load_masks(self.store.file(cell, "masks.safetensors"))
        return load_state(self.store.file(cell, "weights-end.safetensors"), masks)


def with_head(state: Mapping[str, Tensor], giver: Mapping[str, Tensor], head: str) -> State:
    """``state`` with the head of ``giver``, in the order of ``giver``."""
    return {
        name: tensor if name.startswith(f"{head}.") or name not in state else state[name]
        for name, tensor in giver.items()
    }


def view_of(model: nn.Module, network: Network) -> Prunable:
    """The prunable weights of a network, as its description says."""
    return Prunable(model, head=network.head, prune_head=network.prune_head, only=network.prunable)


def state_of(model: nn.Module) -> State:
    """A copy of every parameter and buffer, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def first_entries(masks: Masks, count: int) -> Masks:
    """Masks that keep the first ``count`` entries: where only the density matters, any masks of that count will do."""
    flat = torch.arange(masks.total) < count
    pieces = torch.split(flat, [tensor.numel() for tensor in masks.values()])
    return Masks({name: piece.view(t.shape) for (name, t), piece in zip(masks.items(), pieces, strict=True)})
