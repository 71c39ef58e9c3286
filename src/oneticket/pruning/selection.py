"""Exact selection of k entries, and exact division of a budget of k over layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from oneticket.errors import InputError


def largest(values: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest of ``values``, both of shape (n,); of equal values the lower index is kept.

    Linear in n: the threshold is selected, not found by sorting. NaN, as in a training that has diverged, counts as the
    largest value, so that the mask has ``count`` entries whatever becomes of the network.

    >>> largest(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3)
    tensor([ True,  True, False,  True])
    """
    if not 0 <= count <= values.numel():
        raise InputError(f"cannot keep {count} of {values.numel()} weights")
    if count == 0:
        return torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    if bool(values.isnan().any()):
        values = torch.where(values.isnan(), math.inf, values)
    threshold = values.kthvalue(values.numel() - count + 1).values
    kept = values > threshold
    # `values >= threshold` would keep every weight that ties with the last one; so only the first of these stay.
    ties = (values == threshold).nonzero().flatten()
    kept[ties[: count - int(kept.sum())]] = True
    return kept


def largest_alive(scores: Tensor, alive: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest scores among those alive; ``scores``, ``alive`` and the mask have one shape."""
    kept = torch.zeros_like(alive)
    kept[alive] = largest(scores[alive], count)
    return kept


def random_positions(shape: Iterable[int], count: int, generator: torch.Generator) -> Tensor:
    """Mask of the given shape with ``count`` entries kept; every choice is equally probable."""
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    mask.view(-1)[torch.randperm(mask.numel(), generator=generator)[:count]] = True
    return mask


def apportion(total: int, shares: Sequence[int], caps: Sequence[int]) -> list[int]:
    """``total`` divided in proportion to ``shares``, no part above its cap: integers that add up exactly.

    Parts that would exceed their cap get the cap, and the scale is solved again for the others until none does.
    Fractions go to the largest remainders, ties to the earlier part. All arithmetic is in integers, so nothing is lost
    to rounding. A share may be 0 only if its cap is 0. Raises InputError if the caps leave too little room.

    >>> apportion(10, shares=[6, 3, 1], caps=[4, 9, 9])
    [4, 5, 1]
    """
    if total > sum(caps):
        raise InputError(f"cannot keep {total} of {sum(caps)} weights")
    parts = list(caps)
    budget, free = total, list(range(len(shares)))
    whole = sum(shares)
    while full := {i for i in free if shares[i] * budget >= caps[i] * whole}:
        budget -= sum(caps[i] for i in full)
        free = [i for i in free if i not in full]
        whole = sum(shares[i] for i in free)
    remainders = {}
    for i in free:
        parts[i], remainders[i] = divmod(shares[i] * budget, whole)
    due = budget - sum(parts[i] for i in free)
    for i in sorted(free, key=lambda i: -remainders[i])[:due]:
        parts[i] += 1
    return parts


def erk_share(shape: Iterable[int]) -> int:
    """N_l · Σdims/Πdims = Σdims: the share of a layer in an Erdős–Rényi-kernel budget (Evci et al. 2020, §3)."""
    return sum(shape) or 1


def smart_shares(sizes: Sequence[int], layers: int) -> list[int]:
    """N_l · (k² + k), k = L − l + 1: the shares of layers l = 1, 2, … in a smart-ratio budget (Su et al. 2020).

    ``layers`` is L, which counts the classifier: one more than there are ``sizes`` where it is not among them.

    >>> smart_shares([10, 10], layers=3), smart_shares([10, 10], layers=2)
    ([120, 60], [60, 20])
    """
    return [size * (layers - i) * (layers - i + 1) for i, size in enumerate(sizes)]


def smart_vgg_shares(sizes: Sequence[int], layers: int) -> list[int]:
    """The shares of :func:`smart_shares` over l², all times one number that makes them whole.

    >>> smart_vgg_shares([10, 10], layers=3)  # 12 / 1² and 6 / 2², times 4
    [480, 60]
    """
    whole = math.lcm(*range(1, len(sizes) + 1)) ** 2
    return [share * (whole // (i + 1) ** 2) for i, share in enumerate(smart_shares(sizes, layers))]
