"""Which models carry which ticket, and the context that keeps it there."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import torch
from torch import nn

from oneticket.errors import InputError, unknown
from oneticket.masks import Masks
from oneticket.ticket.format import Contents
from oneticket.ticket.hooks import inner_optimizer
from oneticket.ticket.keeping import Carrier, KeptTicket
from oneticket.ticket.placement import carried, fitting
from oneticket.ticket.twins import Twins, twins_of
from oneticket.wiring import unwrapped
from oneticket.words import Masked


class _Placed(NamedTuple):
    """What was put into a model last: the ticket, the masks by the model's names, and the model's twins then."""

    ticket: Callable[[], Any]
    masks: Masks
    twins: Twins


# Kept apart from tickets and models: two tickets must not both believe that a model carries them.
_PLACED: weakref.WeakKeyDictionary[nn.Module, _Placed] = weakref.WeakKeyDictionary()


def remember(ticket: Any, model: nn.Module, masks: Masks) -> None:
    """Remember that ``ticket`` was put into ``model``, where it has these masks."""
    prefix, inner = unwrapped(model)
    masks = _renamed(masks, prefix)
    _PLACED[inner] = _Placed(weakref.ref(ticket), masks, twins_of(inner, masks))


def masks_on(ticket: Any, contents: Contents, model: nn.Module) -> Masks:
    """The masks of ``ticket`` by the names of ``model``, as it was put in, or where its tensors fit."""
    prefix, inner = unwrapped(model)
    if (last := _PLACED.get(inner)) is not None and last.ticket() is ticket:
        return Masks({prefix + name: mask for name, mask in last.masks.items()})
    return fitting(contents, model)[0]


def keep(
    ticket: Any,
    contents: Contents,
    optimizer: torch.optim.Optimizer,
    model: nn.Module | None,
    place: tuple[str, int],
    *,
    loaded_later: bool,
    masked: Masked,
) -> KeptTicket:
    """The context of :meth:`oneticket.ticket.Ticket.kept`, of the ticket with these contents."""
    if masked not in get_args(Masked):
        raise unknown("masked", masked, get_args(Masked), where="Ticket.kept")
    if masked == "frozen" and model is None:
        raise InputError(
            "masked = 'frozen' without a model", where="Ticket.kept", expected="model=…, whose weights stay"
        )
    optimizer = inner_optimizer(optimizer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer is a {type(optimizer).__name__}", expected="a torch.optim.Optimizer")
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    carriers = [
        carrier
        for carrier in _carriers(ticket, contents, model, fits=loaded_later or masked == "frozen")
        if any(id(parameter) in stepped for parameter in carrier.model.parameters())
    ]
    if not carriers:
        others = [found for found, placed in list(_PLACED.items()) if placed.ticket() is not ticket]
        other = any(id(parameter) in stepped for found in others for parameter in found.parameters())
        raise InputError(
            "none of the optimiser's parameters carries this ticket"
            + (": another ticket was put into their model since" if other else ""),
            where="Ticket.kept",
            expected="ticket.put_into(model) before, or model=… naming the one that carries it, "
            "and an optimiser over the parameters of that model",
        )
    return KeptTicket(optimizer, carriers, place, loaded_later, masked)


def _carriers(ticket: Any, contents: Contents, model: nn.Module | None, *, fits: bool) -> list[Carrier]:
    """The models that carry this ticket, or ``model`` alone, each with the masks that lie in it.

    With ``fits`` it is enough for ``model`` that the ticket fits it.
    """
    if model is None:
        placed = [(found, placed) for found, placed in list(_PLACED.items()) if placed.ticket() is ticket]
        return [Carrier(found, placed.masks, placed.twins) for found, placed in placed]
    prefix, inner = unwrapped(model)
    last = _PLACED.get(inner)
    if last is not None and last.ticket() is ticket:
        return [Carrier(inner, last.masks, last.twins)]
    masks = _renamed(fitting(contents, model)[0] if fits else carried(contents, model), prefix)
    if last is not None and last.masks != masks:
        raise InputError(
            "the model carries another ticket, which was put in last",
            where="Ticket.kept",
            expected="the ticket that was put in last, or ticket.put_into(model) before",
        )
    return [Carrier(inner, masks, twins_of(inner, masks))] if masks else []


def _renamed(masks: Masks, prefix: str) -> Masks:
    return Masks({name.removeprefix(prefix): mask for name, mask in masks.items()})
