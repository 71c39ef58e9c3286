"""Putting a ticket into a model: which tensors fit, and what happens to the head and to the first layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from oneticket.errors import InputError, unknown
from oneticket.masks import Masks
from oneticket.prunable import prunable_names
from oneticket.showing import Bar, table
from oneticket.ticket.format import Contents
from oneticket.ticket.head import draw_head, head_of
from oneticket.ticket.naming import asked, found, renamed, wrapping
from oneticket.ticket.sharding import laid_out_like, local
from oneticket.words import Head, Stem

HEADS, STEMS = get_args(Head), get_args(Stem)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Outcome(NamedTuple):
    """What happened to one tensor, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """The result of putting a ticket into a model.

    ``matched`` and ``fresh`` name tensors of the model, ``refused`` those of the ticket. ``masks`` are the masks now in
    the model, by the names of its parameters; ``ticket_density`` is the density of the ticket. ``dense`` counts the
    prunable weights of the model that have no mask now: refused, in a first layer left as it was, not in the ticket.
    ``renamed`` maps beginnings of the ticket's names to those of the model, where they differ.
    """

    matched: tuple[Outcome, ...]
    fresh: tuple[Outcome, ...]
    refused: tuple[Outcome, ...]
    masks: Masks
    ticket_density: float
    dense: int = 0
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def density(self) -> float:
        """ρ over all prunable weights of the model, those without a mask included."""
        return (self.masks.kept + self.dense) / (self.masks.total + self.dense)

    @property
    def densities(self) -> dict[str, float]:
        """ρ_l of each tensor of the model that is masked now."""
        return self.masks.densities()

    def _repr_html_(self) -> str:
        bars = {name: Bar(density) for name, density in self.densities.items()}
        kinds = {"matched": self.matched, "fresh": self.fresh, "refused": self.refused}
        rows = [(kind, o.name, bars.get(o.name, ""), o.reason) for kind, found in kinds.items() for o in found]
        notes = [f"'{old}…' of the ticket is '{new}…' in the model" for old, new in self.renamed.items()]
        title = f"Placement: density {self.density:.4g} in the model, {self.ticket_density:.4g} in the ticket"
        return table(title, ("", "tensor", "density", "reason"), rows, notes)

    def __str__(self) -> str:
        masked = [outcome for outcome in self.matched if outcome.name in self.masks]
        densities = self.densities
        rows = [("matched", o.name, f"{densities[o.name]:.4f}", o.reason) for o in masked]
        rows += [("fresh", o.name, "", o.reason) for o in self.fresh]
        rows += [("refused", o.name, "", o.reason) for o in self.refused]
        width = max(len(name) for _, name, _, _ in rows)
        lines = [f"{kind:8} {name:{width}} {density:>7}  {reason}".rstrip() for kind, name, density, reason in rows]
        lines.append(f"{len(self.matched) - len(masked)} other tensors copied")
        lines += [f"'{old}…' of the ticket is '{new}…' in the model" for old, new in self.renamed.items()]
        unmasked = f" ({self.dense} of its prunable weights have no mask)" if self.dense else ""
        lines.append(f"density {self.density:.4g} in the model{unmasked}, {self.ticket_density:.4g} in the ticket")
        return "\n".join(lines)


@dataclass
class _Plan:
    """What is to be done to a model; names are those of the model, in ``refused`` those of the ticket."""

    values: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    matched: list[Outcome] = field(default_factory=list)
    fresh: list[Outcome] = field(default_factory=list)
    refused: list[Outcome] = field(default_factory=list)
    adapted: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)  # tensors, by their common names, of a first layer that stays as it is
    redraw: str | None = None

    def take(self, name: str, value: Tensor, mask: Tensor | None, reason: str) -> None:
        self.values[name] = value
        if mask is not None:
            self.masks[name] = mask
        self.matched.append(Outcome(name, reason))


class _Sides:
    """The tensors of ticket and model under common names: wrappers' prefixes stripped, heads kept apart."""

    def __init__(self, ticket: Contents, model: nn.Module, model_head: str | None, *, sure: bool = True) -> None:
        self.ticket, self.model = ticket, model
        names = [*ticket.weights, *ticket.rest]
        tensors = _tensors(model)
        same = any(name in tensors for name in ticket.masks)
        self.prefix, ticket_prefix = ("", "") if same else (wrapping(tensors), wrapping(names))
        source_head = ticket.head.removeprefix(ticket_prefix)
        self.model_head = head_of(model, model_head, self.prefix + source_head if ticket.head else None, sure=sure)
        target_head = self.model_head.removeprefix(self.prefix)
        targets = {name.removeprefix(self.prefix): tensor for name, tensor in tensors.items()}
        self.head = {s: t for name, t in targets.items() if (s := _suffix(name, target_head)) is not None}
        # A tensor tied to the head belongs to the head: drawing the head anew changes it.
        tied = {id(tensor) for tensor in self.head.values()}
        self.body = {name: tensor for name, tensor in targets.items() if id(tensor) not in tied}
        self.head_names = targets.keys() - self.body.keys()
        self.own_head, self.own_body = _head_and_body(names, ticket_prefix, source_head if ticket.head else None)

    def of_ticket(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Value and mask of a tensor of the ticket; no mask for one of the rest."""
        if name in self.ticket.masks:
            return self.ticket.weights[name], self.ticket.masks[name]
        return self.ticket.rest[name], None

    def layer_of(self, name: str) -> nn.Module:
        """The layer of the model that holds the tensor ``name``."""
        return self.model.get_submodule((self.prefix + name).rpartition(".")[0])


def place(
    ticket: Contents,
    model: nn.Module,
    *,
    head: str,
    seed: int,
    stem: str,
    model_head: str | None,
    prefix: str | None = None,
    rename: Mapping[str, str] | None = None,
) -> Placement:
    """Put ``ticket`` into ``model`` in place; see :meth:`oneticket.ticket.Ticket.put_into`."""
    if head not in HEADS:
        raise unknown("head", head, HEADS, where="Ticket.put_into")
    if stem not in STEMS:
        raise unknown("stem", stem, STEMS, where="Ticket.put_into")
    names = asked(prefix, rename, "Ticket.put_into") or found(ticket.masks, _tensors(model))
    ticket = renamed(ticket, names, "Ticket.put_into")
    sides = _Sides(ticket, model, model_head)
    plan = _plan(sides, head, seed, stem)
    if not plan.masks:
        first = plan.refused[0] if plan.refused else Outcome("", "the ticket has nothing for this model")
        raise InputError(
            f"no prunable tensor of the ticket fits the model; {first.name or 'first'}: {first.reason}",
            where="Ticket.put_into",
            expected=f"a model like the ticket's ({ticket.provenance.model or 'unnamed'}), with tensors named as in "
            "it, or rename={'beginning in the ticket': 'beginning in the model'}",
        )
    _apply(plan, model, seed)
    refused = [outcome for outcome in plan.refused if outcome.name in ticket.masks]
    if refused:
        listed = "; ".join(f"{name}: {reason}" for name, reason in refused)
        warnings.warn(f"{len(refused)} of {len(ticket.masks)} masked tensors refused: {listed}", stacklevel=3)
    return Placement(
        tuple(plan.matched), tuple(plan.fresh), tuple(plan.refused), Masks(plan.masks), ticket.masks.density,
        _dense(sides, plan), names,
    )  # fmt: skip


def _dense(sides: _Sides, plan: _Plan) -> int:
    """The prunable weights of the model without a mask; what the ticket holds without one was left out on purpose."""
    tensors = _tensors(sides.model)
    left_out = [sides.prefix + name for name, own in sides.own_body.items() if own not in sides.ticket.masks]
    counted = {id(tensors[name]) for name in (*plan.masks, *left_out) if name in tensors}
    prune_head = any(name in sides.ticket.masks for name in sides.own_head.values())
    names = prunable_names(sides.model, sides.model_head, prune_head)
    return sum(tensors[name].numel() for name in names if id(tensors[name]) not in counted)


def fitting(ticket: Contents, model: nn.Module) -> tuple[Masks, set[str]]:
    """The masks of the tensors of ``model`` that fit ``ticket``, and the names of those that fit once adapted."""
    ticket = renamed(ticket, found(ticket.masks, _tensors(model)), "Ticket.kept")
    plan = _plan(_Sides(ticket, model, None, sure=False), "copied", 0, "adapt")
    return Masks(plan.masks), plan.adapted


def carried(ticket: Contents, model: nn.Module) -> Masks:
    """The masks of the tensors of ``model`` that carry ``ticket``: they fit it, and their masked weights are zero.

    Raises InputError for a tensor that fits but has masked weights other than zero: it was trained without the masks.
    """
    masks, adapted = fitting(ticket, model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    zero = {name: _zero(parameters[name].detach(), mask) for name, mask in masks.items()}
    if drifted := [name for name in masks if not zero[name] and name not in adapted]:
        raise InputError(
            f"the model does not carry this ticket: masked weights of {', '.join(drifted)} are not zero",
            where="Ticket.kept",
            expected="ticket.put_into(model) before, or loaded_later=True if a checkpoint that carries it is loaded in "
            "the context",
        )
    return Masks({name: mask for name, mask in masks.items() if zero[name]})


def _zero(weight: Tensor, mask: Tensor) -> bool:
    own, kept = local(weight), local(laid_out_like(mask, weight))
    return not bool(own[~kept.to(own.device)].any())


# -- planning --------------------------------------------------------------------------------------------------------
def _plan(sides: _Sides, head: str, seed: int, stem: str) -> _Plan:
    plan = _Plan()
    for name, own in sides.own_body.items():
        if name not in plan.left:
            _plan_tensor(plan, sides, name, own, stem)
    for name in sides.body:
        if name in plan.left:
            plan.fresh.append(Outcome(sides.prefix + name, "first layer left as it was, unmasked"))
        elif sides.prefix + name not in plan.values:
            known = "refused" if name in sides.own_body else "not in the ticket"
            plan.fresh.append(Outcome(sides.prefix + name, f"left as it was: {known}"))
    _plan_head(plan, sides, head, seed)
    return plan


def _plan_tensor(plan: _Plan, sides: _Sides, name: str, own: str, stem: str) -> None:
    """Decide about the tensor ``own`` of the ticket, called ``name`` on both sides."""
    value, mask = sides.of_ticket(own)
    target = sides.body.get(name)
    if target is None:
        reason = "belongs to the head of the model" if name in sides.head_names else "not in the model"
        plan.refused.append(Outcome(own, reason))
    elif mask is not None and not isinstance(target, nn.Parameter):
        plan.refused.append(Outcome(own, "a buffer in the model, which cannot be trained"))
    elif value.shape == target.shape:
        plan.take(sides.prefix + name, value, mask, "equal shape")
    elif mask is not None and stem != "strict" and _is_stem(sides, name, value, plan):
        _plan_stem(plan, sides, name, value, mask, stem)
    else:
        plan.refused.append(Outcome(own, _mismatch(value, target, mask, sides.layer_of(name), plan)))


def _plan_stem(plan: _Plan, sides: _Sides, name: str, value: Tensor, mask: Tensor, stem: str) -> None:
    if stem == "fresh":
        layer = name.rpartition(".")[0]
        plan.left |= {n for n in sides.body if n.rpartition(".")[0] == layer}
        return
    adapted, kept, reason = _adapted(value, mask)
    plan.take(sides.prefix + name, adapted, kept, reason)
    plan.adapted.add(sides.prefix + name)


def _plan_head(plan: _Plan, sides: _Sides, head: str, seed: int) -> None:
    names = {suffix: sides.model_head + suffix for suffix in sides.head}
    own = {suffix: sides.of_ticket(name) for suffix, name in sides.own_head.items()}
    fits = own.keys() == sides.head.keys() and all(v.shape == sides.head[s].shape for s, (v, _) in own.items())
    if head == "copied" and fits:
        for suffix, (value, mask) in own.items():
            plan.take(names[suffix], value, mask, "head copied")
            plan.adapted.add(names[suffix])
        return
    reason = "head left as it was" if head == "keep" else f"head drawn anew, seed {seed}"
    if head == "copied":
        theirs, ours = _shapes(t for t, _ in own.values()), _shapes(sides.head.values())
        reason += f": the ticket's head ({theirs}) does not fit the model's ({ours})"
    plan.fresh += [Outcome(name, reason) for name in names.values()]
    plan.redraw = None if head == "keep" else sides.model_head


def _is_stem(sides: _Sides, name: str, value: Tensor, plan: _Plan) -> bool:
    """Whether this is the first layer, and differs from the ticket's only in having 1 or 3 input channels.

    That is, it is the first layer whose shape disagrees, and no tensor before it was refused.
    """
    layer, target = sides.layer_of(name), sides.body[name]
    if not isinstance(layer, _CONVOLUTIONS) or layer.groups != 1 or plan.refused or plan.adapted:
        return False
    alike = value.dim() == target.dim() and value.shape[0] == target.shape[0] and value.shape[2:] == target.shape[2:]
    return alike and {value.shape[1], target.shape[1]} == {1, 3}


def _adapted(value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, str]:
    """Weights and mask of a first convolution for 3 channels instead of 1, or 1 instead of 3.

    On an image with equal channels both compute what the ticket's layer computes.
    """
    if value.shape[1] == 1:
        repeats = [1, 3] + [1] * (value.dim() - 2)
        return value.repeat(repeats) / 3, mask.repeat(repeats), "grey→rgb: repeated over the channels, divided by 3"
    return value.sum(1, keepdim=True), mask.any(1, keepdim=True), "rgb→grey: summed over the channels"


def _mismatch(value: Tensor, target: Tensor, mask: Tensor | None, layer: nn.Module, plan: _Plan) -> str:
    reason = f"shape {tuple(value.shape)} in the ticket, {tuple(target.shape)} in the model"
    first = mask is not None and not plan.refused
    if first and value.dim() == target.dim() >= 2 and value.shape[0] == target.shape[0]:
        if isinstance(layer, _CONVOLUTIONS):
            return f"{reason}; give the data channels = {value.shape[1] * layer.groups}"
        return f"{reason}; give the data the size and channels of the ticket's inputs (size = …, channels = …)"
    return reason


# -- acting ----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def _apply(plan: _Plan, model: nn.Module, seed: int) -> None:
    tensors = model.state_dict(keep_vars=True)
    # Masked tensors last: of two names of one tensor, the masked one decides.
    for name, value in sorted(plan.values.items(), key=lambda item: item[0] in plan.masks):
        tensors[name].copy_(laid_out_like(value, tensors[name]))
    if plan.redraw is not None:
        draw_head(model.get_submodule(plan.redraw), seed)


# -- names -----------------------------------------------------------------------------------------------------------
def _suffix(name: str, layer: str) -> str | None:
    """What follows the layer's name (".weight"), or None for a tensor of another layer."""
    return name.removeprefix(layer) if name.startswith(f"{layer}.") else None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of ``model`` by name; InputError for one without a shape."""
    tensors = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    if lazy := [name for name, tensor in tensors.items() if is_lazy(tensor)]:
        raise InputError(f"the model's tensor '{lazy[0]}' has no shape yet", expected="one batch run through it first")
    return tensors


def _head_and_body(names: Iterable[str], prefix: str, head: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """The ticket's tensors: of the head, by what follows its name, and all others by name without ``prefix``."""
    of_head: dict[str, str] = {}
    of_body: dict[str, str] = {}
    for name in names:
        plain = name.removeprefix(prefix)
        suffix = _suffix(plain, head) if head is not None else None
        if suffix is not None:
            of_head[suffix] = name
        else:
            of_body[plain] = name
    return of_head, of_body


def _shapes(tensors: Iterable[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"
