"""Importing: masks that other programs wrote become a ticket of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oneticket.errors import InputError, nearest
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.ticket import Provenance, Ticket
from oneticket.ticket.format import Contents
from oneticket.ticket.naming import found, renamed, wrapping

PRUNE = "torch.nn.utils.prune"
MASKS = "masks of zeros and ones"
ZEROS = "weights that are zero"
_SHOWN = 5


class Imported(NamedTuple):
    """The ticket that was made, and how the file says what is masked: PRUNE, MASKS or ZEROS."""

    ticket: Ticket
    kind: str


def imported(
    state: Mapping[str, Tensor],
    model: nn.Module,
    *,
    weights: Mapping[str, Tensor] | None = None,
    head: str | None = None,
    provenance: Provenance | None = None,
) -> Imported:
    """A ticket from a state dict of a pruned network, or from masks alone.

    Parameters
    ----------
    state : Mapping[str, Tensor]
        A state dict with ``X_orig`` and ``X_mask`` (``torch.nn.utils.prune``); masks by the names of parameters, all 0
        or 1 (``mask.pth`` of open_lth); or a state dict whose masked weights are exactly zero.
    model : nn.Module
        The network, for names, shapes and head; it is left alone.
    weights : Mapping[str, Tensor], optional
        The state dict at the rewind point; needed with masks alone. Without it the values are those of ``state``, which
        are usually trained.
    head : str, optional
        Name of the classifier, by default found.
    provenance : Provenance, optional
        Where the network comes from.

    Raises
    ------
    InputError
        For names that the network does not have, with the nearest; for other shapes; and where nothing is masked.
    """
    kind = _kind(state)
    if kind == MASKS and weights is None:
        expected = "--weights, the state dict at the point to which weights are rewound"
        raise InputError("holds masks and no weights", where="import", expected=expected)
    masks = _masks(state, kind)
    values = {name.removesuffix("_orig"): tensor for name, tensor in state.items() if not name.endswith("_mask")}
    own = dict(weights) if weights is not None else values
    about = provenance or Provenance()
    contents = _plainly_named(Contents(masks, {}, own, "", about))
    contents = renamed(contents, found(masks, model.state_dict()), "import")
    _refuse_other_names(contents, model)
    view = Prunable(model, head=head)
    embeddings = {f"{n}.weight".lstrip(".") for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    chosen = {}
    for name, parameter in model.named_parameters():
        mask = contents.masks.get(name)
        pruned = mask is not None and not bool(mask.all())
        if name in view.names or (pruned and parameter.dim() > 1 and name not in embeddings):
            chosen[name] = mask if mask is not None else torch.ones(parameter.shape, dtype=torch.bool)
    if all(bool(mask.all()) for mask in chosen.values()):
        raise InputError("nothing is masked: no weight is exactly zero", where="import", expected="a pruned network")
    whole = {**model.state_dict(), **contents.rest}  # counters of batches, which old files lack
    # A bias can be masked there; here it is zero once, and trained.
    rest = {n: t * contents.masks[n] if n in contents.masks else t for n, t in whole.items() if n not in chosen}
    return Imported(Ticket(Masks(chosen), {n: whole[n] for n in chosen}, rest, view.head, about), kind)


def _kind(state: Mapping[str, Tensor]) -> str:
    if any(name.endswith("_mask") and name.removesuffix("_mask") + "_orig" in state for name in state):
        return PRUNE
    return MASKS if all(bool(((tensor == 0) | (tensor == 1)).all()) for tensor in state.values()) else ZEROS


def _masks(state: Mapping[str, Tensor], kind: str) -> Masks:
    if kind == PRUNE:
        return Masks({n.removesuffix("_mask"): t != 0 for n, t in state.items() if n.endswith("_mask")})
    return Masks({name: tensor != 0 for name, tensor in state.items() if kind == MASKS or tensor.dim() > 1})


def _plainly_named(contents: Contents) -> Contents:
    """``contents`` without what DistributedDataParallel and torch.compile put before every name."""
    before = wrapping([*contents.masks, *contents.rest])
    return renamed(contents, {before: ""} if before else {}, "import")


def _refuse_other_names(contents: Contents, model: nn.Module) -> None:
    """Raise InputError for names and shapes that are not those of the network; each with the nearest name."""
    known = model.state_dict()
    named = {**contents.masks, **contents.rest}
    if odd := [name for name in named if name not in known]:
        near = [f"{n} (did you mean '{close}'?)" if (close := nearest(n, known)) else n for n in odd[:_SHOWN]]
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        what = f"{len(odd)} names that the network does not have: {', '.join(near)}{more}"
        raise InputError(what, where="import", expected=f"names such as {next(iter(known))}")
    for name, tensor in [*contents.masks.items(), *contents.rest.items()]:
        if tensor.shape != known[name].shape:
            shapes = f"shape {tuple(tensor.shape)} in the file, {tuple(known[name].shape)} in the network"
            raise InputError(f"{name}: {shapes}", where="import", expected="the network that was pruned")
    if lacking := [n for n in known if n not in contents.rest and not n.endswith("num_batches_tracked")]:
        listed = ", ".join(lacking[:_SHOWN])
        raise InputError(f"values are missing for {listed}", where="import", expected="a whole state dict")
