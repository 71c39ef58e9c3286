"""The head of the model a ticket is put into: finding it, and drawing it anew."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.prunable import check_head, has_layer, sole_head
from oneticket.randomness import Streams, seeded
from oneticket.ticket.sharding import laid_out_like, layout


def head_of(model: nn.Module, asked: str | None, same: str | None, *, sure: bool = True) -> str:
    """The model's head: the one asked for, else the layer named as the ticket's head, else the only one possible.

    Where that leaves a doubt, InputError; or "", no head, if it need not be ``sure``.
    """
    if asked is not None:
        check_head(model, asked)
        return asked
    if same is not None and has_layer(model, same):
        return same
    try:
        return sole_head(model)
    except InputError as error:
        if not sure:
            return ""
        raise InputError(error.what, where="Ticket.put_into", expected='its name, as model_head="…"') from error


@torch.no_grad()
def draw_head(layer: nn.Module, seed: int) -> None:
    """Draw ``layer`` anew from the "head" stream of ``seed``, in place, the same numbers on every device.

    By the layer's own ``reset_parameters``; without one, Kaiming normal for weights and zero for vectors.
    """
    drawn = _whole(layer)
    with seeded(Streams(seed).seed("head")):
        if callable(reset := getattr(drawn, "reset_parameters", None)):
            reset()
        else:
            for parameter in drawn.parameters():
                nn.init.zeros_(parameter) if parameter.dim() < 2 else nn.init.kaiming_normal_(parameter)
    old, new = ([*module.parameters(), *module.buffers()] for module in (layer, drawn))
    for tensor, value in zip(old, new, strict=True):
        tensor.copy_(laid_out_like(value, tensor))


def _whole(layer: nn.Module) -> nn.Module:
    """A copy of ``layer`` on the CPU, with all of each parameter that processes hold in parts."""
    # FSDP refuses to copy a layer that it shards for itself; its parameters are, so they are put in beforehand.
    whole: dict[int, Any] = {
        id(p): nn.Parameter(torch.zeros(p.shape, dtype=p.dtype)) for p in layer.parameters() if layout(p) is not None
    }
    try:
        return copy.deepcopy(layer, whole).cpu()
    except AssertionError as error:
        raise InputError(
            "a head that FSDP shards for itself can't be drawn anew",
            where="Ticket.put_into",
            expected="ticket.put_into(model) before fully_shard, or head='keep'",
        ) from error
