"""Mask controls, to compare a ticket's mask with (methods §4); only ``elastic`` changes the number of kept weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.pruning.base import control
from oneticket.pruning.context import ControlContext
from oneticket.pruning.correspondence import reindexed, stretched
from oneticket.pruning.selection import (
    apportion,
    erk_share,
    largest,
    random_positions,
    smart_shares,
    smart_vgg_shares,
)

NATURALLY_ZERO = 1e-3
"""A weight is naturally zero if dense training ends with |W_T| at most this fraction of its layer's σ_l.

If all f_l weights into a unit were that small, they would change its pre-activation by at most a thousandth of its
standard deviation at initialisation, σ_l √f_l for inputs of unit variance. The same number bounds |γ| of a batch
normalisation behind the unit, which multiplies values of unit variance. By chance alone, 0.08 % of the weights of an
untouched normal layer are that small.
"""


@control("preserved", source="Morcos et al. 2019, figure A1")
def preserved(ticket: Masks, _: ControlContext) -> Masks:
    """The ticket's own mask."""
    return ticket


@control("layer-permuted", source="Morcos et al. 2019, figure A1")
def layer_permuted(ticket: Masks, context: ControlContext) -> Masks:
    """The ticket's mask permuted inside each layer: keeps every layer's density."""
    return ticket.permuted(context.generator, within="layer")


@control("globally-permuted", source="Morcos et al. 2019", needs="density")
def globally_permuted(ticket: Masks, context: ControlContext) -> Masks:
    """The ticket's mask permuted over the whole network: keeps the overall density only."""
    return ticket.permuted(context.generator, within="network")


@control("even", needs="density")
def even(ticket: Masks, context: ControlContext) -> Masks:
    """Random positions, every layer at the ticket's overall density."""
    return _scattered(ticket, _sizes(ticket), context.generator)


@control("erk", source="Evci et al. 2020, §3", needs="density")
def erk(ticket: Masks, context: ControlContext) -> Masks:
    """Random positions, layer densities ρ_l ∝ Σdims/Πdims (Erdős–Rényi kernel)."""
    return _scattered(ticket, [erk_share(mask.shape) for mask in ticket.values()], context.generator)


@control("smart", source="Su et al. 2020", needs="density")
def smart(ticket: Masks, context: ControlContext) -> Masks:
    """Random positions, layer densities ρ_l ∝ k² + k, k = L − l + 1, l = 1, 2, … in the network's order.

    L counts the head, too: where it has no mask, the last layer has k = 2. Layers that would exceed 1 are kept whole
    and the scale is solved again for the others. The published exception for the classifier (always 0.3) is left out:
    by default the head is not pruned.
    """
    return _scattered(ticket, smart_shares(_sizes(ticket), _layers(ticket, context)), context.generator)


@control("smart-vgg", source="Su et al. 2020, code for VGG", needs="density")
def smart_vgg(ticket: Masks, context: ControlContext) -> Masks:
    """Random positions, layer densities ρ_l ∝ (k² + k) / l²: those of the published results of VGG.

    All else is as in ``smart``.
    """
    return _scattered(ticket, smart_vgg_shares(_sizes(ticket), _layers(ticket, context)), context.generator)


@control("natural-corrected", source="Caron et al. 2020")
def natural_corrected(ticket: Masks, context: ControlContext) -> Masks:
    """Weights that dense training drove to zero are dropped first, the rest at random over the network.

    Which these are, :func:`naturally_zero` says. If there are more of them than have to be dropped, those to drop are
    chosen at random among them; without any, this is ``globally-permuted``.
    """
    if not ticket:
        return ticket
    natural = torch.cat([mask.flatten() for mask in naturally_zero(ticket, context).values()])
    # Random places in a queue, with every naturally zero weight behind all others.
    places = torch.randperm(ticket.total, generator=context.generator) - ticket.total * natural
    pieces = torch.split(largest(places, ticket.kept), [mask.numel() for mask in ticket.values()])
    return Masks({name: piece.view(m.shape) for (name, m), piece in zip(ticket.items(), pieces, strict=True)})


@control("other-seed", masks_from="other-seed")
def other_seed(ticket: Masks, _: ControlContext) -> Masks:
    """The mask of a ticket found from another seed, as it is."""
    return ticket


@control("aligned", source="Adnan et al. 2025", masks_from="other-seed")
def aligned(ticket: Masks, context: ControlContext) -> Masks:
    """The mask of a ticket found from another seed, its channels in the order that matches this seed's."""
    return Masks(reindexed(ticket, context.matching))


@control("elastic", source="Chen et al. 2021", masks_from="other-depth")
def elastic(ticket: Masks, context: ControlContext) -> Masks:
    """The mask of a ticket of a shallower or deeper network of the family, residual blocks repeated or dropped.

    The number of kept weights follows from the depth; layers keep their densities. In which order blocks are repeated
    or dropped, ``blocks`` of the context says.
    """
    return Masks(stretched(ticket, context.shapes, context.blocks))


def naturally_zero(masks: Masks, context: ControlContext) -> Masks:
    """True for the weights, of those that ``masks`` name, that dense training drove to zero.

    A weight is naturally zero if |W_T| ≤ 10⁻³ σ_l, with σ_l the population standard deviation of W_0,l, or if it leads
    into a unit whose batch normalisation ended with |γ| ≤ 10⁻³: whatever the weight is, the output of such a unit is
    constant. Both bounds are ours.

    Raises
    ------
    InputError
        When the initial or the trained weights are those of another network.
    """
    return Masks({name: _small(name, mask, context) for name, mask in masks.items()})


def _small(name: str, mask: Tensor, context: ControlContext) -> Tensor:
    for state, which in ((context.initial, "initial"), (context.trained, "densely trained")):
        if name not in state or state[name].shape != mask.shape:
            raise InputError(
                f"the {which} weights have no '{name}' of the shape {tuple(mask.shape)}",
                where="control 'natural-corrected'",
                expected="the weights of the network to which the masks belong",
            )
    start = context.initial[name].detach().double()
    spread = (start - start.mean()).square().mean().sqrt()
    small = context.trained[name].detach().cpu().double().abs() <= NATURALLY_ZERO * float(spread)
    if name in context.gains:
        small |= context.gains[name].detach().cpu().double().abs() <= NATURALLY_ZERO
    return small


def _sizes(masks: Masks) -> list[int]:
    return [mask.numel() for mask in masks.values()]


def _layers(masks: Masks, context: ControlContext) -> int:
    """The layers of the network, its head included."""
    return len(masks) + (context.head is None)


def _scattered(ticket: Masks, shares: Sequence[int], generator: torch.Generator) -> Masks:
    counts = apportion(ticket.kept, shares, _sizes(ticket))
    return Masks(
        {
            name: random_positions(mask.shape, count, generator)
            for (name, mask), count in zip(ticket.items(), counts, strict=True)
        }
    )
