"""Reading a ticket off a network that was pruned elsewhere."""

from __future__ import annotations

from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import check_head, prunable_names, sole_head
from oneticket.ticket.format import Contents
from oneticket.ticket.provenance import Provenance, versions

_ORIGINAL, _MASK = "_orig", "_mask"


def read_model(model: nn.Module, head: str | None) -> Contents:
    """Masks, weights and the rest of a pruned network; see :meth:`oneticket.ticket.Ticket.from_model`."""
    found = Masks.of(model)
    head = _head(model, head)
    tensors = dict(model.state_dict())
    hooked = [name for name in found if f"{name}{_ORIGINAL}" in tensors]  # torch.nn.utils.prune
    for name in hooked:
        tensors[name] = tensors.pop(f"{name}{_ORIGINAL}")
        del tensors[f"{name}{_MASK}"]
    masks = _with_dense(model, found, head) if head else found
    weights: dict[str, Tensor] = {name: tensors.pop(name) for name in masks}
    how = {
        (True, False): "torch.nn.utils.prune",
        (False, True): "weights that are exactly zero",
        (True, True): "torch.nn.utils.prune, and weights that are exactly zero",
    }[bool(hooked), len(hooked) < len(found)]
    provenance = Provenance(model=type(model).__name__, versions=versions(), notes={"masks": how})
    return Contents(masks, weights, tensors, head, provenance)


def _head(model: nn.Module, asked: str | None) -> str:
    if asked is not None:
        check_head(model, asked)
        return asked
    try:
        return sole_head(model)
    except InputError:
        return ""


def _with_dense(model: nn.Module, found: Masks, head: str) -> Masks:
    """The masks with those of prunable weights that have no zero, all True, in the order of the network."""
    shapes = {name: parameter for name, parameter in model.named_parameters() if name in {*prunable_names(model, head)}}
    dense = Masks.full({name: weight for name, weight in shapes.items() if name not in found})
    order = [name.removesuffix(_ORIGINAL) for name, _ in model.named_parameters()]
    return Masks({name: (found if name in found else dense)[name] for name in order if name in found or name in dense})
