"""Two masks or two states side by side, and what a history tells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.training.results import EpochRecord


# -- masks and weights --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Overlap:
    """Intersection over union of two masks, and the same by chance.

    Parameters
    ----------
    value : float
        Of the two masks.
    chance : float
        Of masks with the same numbers of kept weights, at random in the whole network; ρ/(2−ρ) for equal ρ.
    layer_chance : float
        The same, at random within each layer; higher where both masks keep more of the same layers.
    """

    value: float
    chance: float
    layer_chance: float


def overlap(first: Masks, second: Masks) -> Overlap:
    """The weights that both masks keep, as a part of those that either keeps, beside chance.

    Two sets of k₁ and k₂ of n weights drawn at random share k₁k₂/n on average (the mean of the hypergeometric
    distribution); chance is that over k₁ + k₂ − k₁k₂/n, which is ρ/(2−ρ) for k₁ = k₂ = ρn.

    Parameters
    ----------
    first, second : Masks
        Masks of equal names and shapes.

    Returns
    -------
    Overlap
        1.0 where neither mask keeps a weight.
    """
    value = first.overlap(second)
    layers = [(row.kept, int(second[row.name].sum()), row.total) for row in first.table() if row.total]
    whole = (first.kept, second.kept, first.total)
    return Overlap(value, _chance([whole] if first.total else []), _chance(layers))


def _chance(groups: Sequence[tuple[int, int, int]]) -> float:
    shared = math.fsum(a * b / n for a, b, n in groups)
    union = sum(a + b for a, b, _ in groups) - shared
    return shared / union if union else 1.0


@dataclass(frozen=True)
class SignFlips:
    """Kept weights whose sign differs between two states: ``flipped`` of ``kept``, by layer ``(flipped, kept)``."""

    flipped: int
    kept: int
    layers: Mapping[str, tuple[int, int]]

    @property
    def fraction(self) -> float | None:
        """Flipped over kept; None where no weight is kept."""
        return self.flipped / self.kept if self.kept else None


def sign_flips(first: Mapping[str, Tensor], second: Mapping[str, Tensor], masks: Masks) -> SignFlips:
    """Count the kept weights whose sign differs between two states; a weight of exactly 0.0 has no sign.

    Parameters
    ----------
    first, second : Mapping[str, Tensor]
        States with a tensor of the mask's shape for each mask.
    masks : Masks
        The weights to count.

    Returns
    -------
    SignFlips

    Raises
    ------
    InputError
        When a state lacks such a tensor.
    """
    _check_states(first, second, masks)
    layers = {}
    for name, mask in masks.items():
        signs = (torch.sign(state[name].detach().cpu()[mask.cpu()]) for state in (first, second))
        layers[name] = (int((next(signs) * next(signs) < 0).sum()), int(mask.sum()))
    return SignFlips(sum(f for f, _ in layers.values()), sum(k for _, k in layers.values()), layers)


@dataclass(frozen=True)
class Distance:
    """How far apart two states are, in L2: ‖m ∘ (W − V)‖ of all tensors together, and by layer ``(‖…‖, ‖m ∘ V‖)``."""

    norm: float
    layers: Mapping[str, tuple[float, float]]


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor], masks: Masks) -> Distance:
    """The L2 distance between two states over the kept weights, in float64.

    With ``first`` the weights at the beginning of a training and ``second`` those at its end, it is how far that went;
    Liu et al. 2021 compare tickets by it.

    Parameters
    ----------
    first, second : Mapping[str, Tensor]
        States with a tensor of the mask's shape for each mask.
    masks : Masks
        The weights that count.

    Returns
    -------
    Distance

    Raises
    ------
    InputError
        When a state lacks such a tensor.
    """
    _check_states(first, second, masks)
    layers = {}
    for name, mask in masks.items():
        old, new = (state[name].detach().cpu().double()[mask.cpu()] for state in (first, second))
        layers[name] = (float((new - old).norm()), float(old.norm()))
    return Distance(math.hypot(*(far for far, _ in layers.values())), layers)


def _check_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor], masks: Masks) -> None:
    for name, mask in masks.items():
        for place, state in (("first", first), ("second", second)):
            if name not in state or state[name].shape != mask.shape:
                raise InputError(f"no tensor '{name}' of the mask's shape {tuple(mask.shape)}", where=place)


# -- histories ----------------------------------------------------------------------------------------------------
def best_epoch(history: Sequence[EpochRecord]) -> EpochRecord | None:
    """The epoch with the highest validation accuracy, the earliest of equal ones; None without validation."""
    judged = [record for record in history if record.val_accuracy is not None]
    return max(judged, key=lambda record: record.val_accuracy or 0.0, default=None)


def steps_to(history: Sequence[EpochRecord], accuracy: float, *, start: int = 0) -> int | None:
    """Optimiser steps until the validation accuracy, measured once an epoch, first reached ``accuracy``.

    Parameters
    ----------
    history : Sequence[EpochRecord]
        The epochs of one training.
    accuracy : float
        A fraction.
    start : int, default 0
        The step to count from; for a rewound training the step that it was rewound to.

    Returns
    -------
    int or None
        None where it was never reached.
    """
    reached = (r.step - start for r in history if r.val_accuracy is not None and r.val_accuracy >= accuracy)
    return next(reached, None)
