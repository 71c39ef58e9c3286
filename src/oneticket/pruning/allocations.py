"""Allocations: how the budget of kept weights is divided over the network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.pruning.base import Scores, allocation, kept_count
from oneticket.pruning.selection import apportion, erk_share, largest_alive, smart_shares, smart_vgg_shares


@allocation("global", source="Han et al. 2015; Frankle & Carbin 2019")
def globally(scores: Scores, density: float, alive: Masks) -> Masks:
    """The best of the whole network by one threshold; a layer may lose everything."""
    every = torch.cat([s.flatten() for s in scores.values()])
    living = torch.cat([alive[name].flatten() for name in scores])
    kept = largest_alive(every, living, kept_count(density, every.numel()))
    pieces = kept.split_with_sizes([s.numel() for s in scores.values()])
    return Masks({name: piece.view(s.shape) for (name, s), piece in zip(scores.items(), pieces, strict=True)})


@allocation("layerwise", source="Frankle & Carbin 2019")
def layerwise(scores: Scores, density: float, alive: Masks) -> Masks:
    """The best of each layer, every layer at the same density.

    A layer with too few weights alive keeps all of those, and the others share the rest of its budget.
    """
    return _best(scores, alive, _rest_uniform(scores, alive, _budget(scores, density), {}))


@allocation("uniform+", source="Gale et al. 2019", needs="head", least="depends on the layers")
def uniform_plus(scores: Scores, density: float, alive: Masks, *, head: str | None = None) -> Masks:
    """First convolution dense, the head at 20 % or more where it is prunable, every other layer at the same density.

    ``head`` names the head's weight among the scores; None means that the head is not prunable and stays dense. In a
    network without convolutions only the head is special.

    Raises
    ------
    InputError
        If the density is too low for these two layers, or too few of their weights are alive.
    """
    budget = _budget(scores, density)
    first = next((name for name, s in scores.items() if s.dim() >= 3), None)
    least = {} if head is None else {head: -(-scores[head].numel() // 5)}
    dense = {} if first is None else {first: scores[first].numel()}
    _refuse_impossible(least | dense, budget, alive, head)
    counts = _rest_uniform(scores, alive, budget, dense)
    if any(counts[name] < count for name, count in (least | dense).items()):
        counts = _rest_uniform(scores, alive, budget, least | dense)
    return _best(scores, alive, counts)


@allocation("erk", source="Evci et al. 2020, §3")
def erk(scores: Scores, density: float, alive: Masks) -> Masks:
    """The best of each layer, layer densities ρ_l ∝ Σdims/Πdims (Erdős–Rényi kernel).

    Layers that would exceed 1, or what is alive of them, are kept whole and the scale is solved again for the others.
    """
    shares = {name: erk_share(s.shape) for name, s in scores.items()}
    return _best(scores, alive, _counts(_budget(scores, density), shares, alive))


@allocation("lamp", source="Lee et al. 2021", needs="nonnegative")
def lamp(scores: Scores, density: float, alive: Masks) -> Masks:
    """The best of the whole network by w_i² / Σ_{j ≥ i} w_j², the w of each layer in ascending order.

    ``scores`` are w: with ``magnitude`` this is LAMP as published, and any other criterion without negative scores
    works as well. The sum runs over the weights of the layer that are alive and at least as large: the best of each
    layer gets 1, so no layer is emptied before every layer has only one weight left.

    Raises
    ------
    InputError
        For negative scores.
    """
    levels = {name: _suffix_shares(name, s, alive[name]) for name, s in scores.items()}
    chosen = globally(levels, density, alive)
    # Close scores may round to equal shares, so the scores themselves decide within a layer.
    return _best(scores, alive, {name: int(mask.sum()) for name, mask in chosen.items()})


@allocation("smart", source="Su et al. 2020", needs="head")
def smart(scores: Scores, density: float, alive: Masks, *, head: str | None = None) -> Masks:
    """The best of each layer, density of layer l of L in proportion to k² + k, k = L − l + 1.

    The layers are the prunable ones in the model's order. L counts the head, too: where it is not prunable (``head`` is
    None), the last prunable layer has k = 2. Layers that would exceed 1, or what is alive of them, are kept whole and
    the scale is solved again for the others.
    """
    shares = smart_shares([s.numel() for s in scores.values()], len(scores) + (head is None))
    return _best(scores, alive, _counts(_budget(scores, density), dict(zip(scores, shares, strict=True)), alive))


@allocation("smart-vgg", source="Su et al. 2020, code for VGG", needs="head")
def smart_vgg(scores: Scores, density: float, alive: Masks, *, head: str | None = None) -> Masks:
    """The best of each layer, density of layer l of L in proportion to (k² + k) / l², k = L − l + 1.

    The published results of VGG are of these densities, which the paper's formula does not give; all else is as in
    ``smart``.
    """
    shares = smart_vgg_shares([s.numel() for s in scores.values()], len(scores) + (head is None))
    return _best(scores, alive, _counts(_budget(scores, density), dict(zip(scores, shares, strict=True)), alive))


def _suffix_shares(name: str, scores: Tensor, alive: Tensor) -> Tensor:
    """w_i² / Σ_{j ≥ i} w_j² of weights alive, in float64; 0 where the sum is 0, and for dead weights."""
    if bool((scores[alive] < 0).any()):
        where, expected = "allocation 'lamp'", "scores that are not negative, such as magnitudes"
        raise InputError(f"some scores of '{name}' are negative", where=where, expected=expected)
    descending, order = scores[alive].double().square().sort(descending=True)
    shares = torch.empty_like(descending)
    shares[order] = descending / descending.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)
    result = torch.zeros(scores.shape, dtype=torch.float64)
    result[alive] = shares
    return result


def _budget(scores: Scores, density: float) -> int:
    return kept_count(density, sum(s.numel() for s in scores.values()))


def _counts(budget: int, shares: Mapping[str, int], alive: Masks) -> dict[str, int]:
    parts = apportion(budget, list(shares.values()), [int(alive[name].sum()) for name in shares])
    return dict(zip(shares, parts, strict=True))


def _rest_uniform(scores: Scores, alive: Masks, budget: int, fixed: Mapping[str, int]) -> dict[str, int]:
    sizes = {name: s.numel() for name, s in scores.items() if name not in fixed}
    return {**fixed, **_counts(budget - sum(fixed.values()), sizes, alive)}


def _refuse_impossible(least: Mapping[str, int], budget: int, alive: Masks, head: str | None) -> None:
    where = "allocation 'uniform+'"
    kept = "the first convolution" if head is None else "the first convolution and 20 % of the head"
    for name, count in least.items():
        living = int(alive[name].sum())
        if living < count:
            fault = f"needs {count} weights of '{name}', but only {living} are alive"
            raise InputError(fault, where=where, expected=f"masks that kept {kept}")
    needed = sum(least.values())
    if budget < needed:
        raise InputError(
            f"needs {needed} weights for {kept}, but the density gives {budget}",
            where=where,
            expected=f"a density of at least {needed / alive.total:.4g}",
        )


def _best(scores: Scores, alive: Masks, counts: Mapping[str, int]) -> Masks:
    return Masks({name: largest_alive(s, alive[name], counts[name]) for name, s in scores.items()})
