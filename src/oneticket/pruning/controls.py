"""Mask controls: what a ticket's mask is compared with (methods §4); the number of kept weights never changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from oneticket.masks import Masks
from oneticket.pruning.base import control
from oneticket.pruning.selection import apportion, erk_share, random_positions


@control("preserved", source="Morcos et al. 2019, figure A1")
def preserved(ticket: Masks, _: torch.Generator) -> Masks:
    """The ticket's own mask."""
    return ticket


@control("layer-permuted", source="Morcos et al. 2019, figure A1")
def layer_permuted(ticket: Masks, generator: torch.Generator) -> Masks:
    """The ticket's mask permuted inside each layer: keeps every layer's density."""
    return ticket.permuted(generator, within="layer")


@control("globally-permuted", source="Morcos et al. 2019", needs="density")
def globally_permuted(ticket: Masks, generator: torch.Generator) -> Masks:
    """The ticket's mask permuted over the whole network: keeps the overall density only."""
    return ticket.permuted(generator, within="network")


@control("even", needs="density")
def even(ticket: Masks, generator: torch.Generator) -> Masks:
    """Random positions, every layer at the ticket's overall density."""
    return _scattered(ticket, [mask.numel() for mask in ticket.values()], generator)


@control("erk", source="Evci et al. 2020, §3", needs="density")
def erk(ticket: Masks, generator: torch.Generator) -> Masks:
    """Random positions, layer densities ρ_l ∝ Σdims/Πdims (Erdős–Rényi kernel)."""
    return _scattered(ticket, [erk_share(mask.shape) for mask in ticket.values()], generator)


def _scattered(ticket: Masks, shares: Sequence[int], generator: torch.Generator) -> Masks:
    counts = apportion(ticket.kept, shares, [mask.numel() for mask in ticket.values()])
    return Masks(
        {
            name: random_positions(mask.shape, count, generator)
            for (name, mask), count in zip(ticket.items(), counts, strict=True)
        }
    )
