"""Networks that are sparse from the first step to the last, with connections that move: SET and RigL."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import budget, checked, interval, moment, refuse_masked
from oneticket.pruning import ALLOCATIONS
from oneticket.pruning.selection import largest, largest_alive
from oneticket.training import Callback, TrainState

Interest = Callable[[Tensor, torch.Generator], Tensor]
"""A weight with its gradient, and a generator on the CPU → scores of that shape; the weights of the largest grow."""


@method("set", source="Mocanu et al. 2018; drop fraction: Evci et al. 2020", makes="masks")
def sparse_evolutionary(context: MethodContext, *, every: int = 100, stop: float = 0.75, drop: float = 0.3) -> Callback:
    """Sparse from the start (ERK); now and then the smallest weights of a layer go and random ones grow.

    Everything else is as in ``rigl``.
    """
    return Regrowing("set", context.density, every, stop, drop, _chance)


@method("rigl", source="Evci et al. 2020", makes="masks")
def rigl(context: MethodContext, *, every: int = 100, stop: float = 0.75, drop: float = 0.3) -> Callback:
    """Sparse from the start (ERK); now and then the smallest weights go and those of the largest gradients grow.

    The training begins with a random mask at ρ with ERK layer densities. Masks change every ``every`` steps, or every
    tenth of the phase if that is less, until the fraction ``stop`` of the training is over (T_end). Each time, each
    layer drops the fraction α/2 (1 + cos(πt/T_end)) of its weights, α = ``drop``, rounded down: the smallest |W|.
    Equally many grow among all weights that are then unused: those with the largest gradient of that step's loss.
    Weights just dropped are among them, as published; one that grows back keeps its value and the optimiser's memory,
    as in the authors' code, so a dense layer does not change. Other grown weights and their memory start at zero. The
    paper skips the optimiser's step when masks change; here it is taken, with the new masks, so that all arms have
    equally many steps.
    """
    return Regrowing("rigl", context.density, every, stop, drop, _steepness)


def drop_fraction(step: int, end: int, alpha: float) -> float:
    """α/2 (1 + cos(πt/T_end)): the fraction of a layer's weights to drop after t = ``step`` of ``end`` steps."""
    return alpha / 2 * (1 + math.cos(math.pi * step / end))


def regrown(mask: Tensor, weight: Tensor, interest: Tensor, count: int) -> Tensor:
    """``mask`` without its ``count`` smallest |weight|, plus the ``count`` largest ``interest`` outside the rest.

    All tensors have one shape; among equal values the earlier weight stays, or grows.

    >>> mask = torch.tensor([True, True, False, False])
    >>> regrown(mask, torch.tensor([1.0, 0.1, 0.0, 0.0]), torch.tensor([9.0, 1.0, 3.0, 2.0]), 1)
    tensor([ True, False,  True, False])
    """
    staying = largest_alive(weight.abs(), mask, int(mask.sum()) - count)
    grown = torch.zeros_like(mask)
    grown[~staying] = largest(interest[~staying], count)
    return staying | grown


def _chance(weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(weight.shape, generator=generator)


def _steepness(weight: Tensor, _: torch.Generator) -> Tensor:
    return torch.zeros(weight.shape) if weight.grad is None else weight.grad.detach().abs().cpu()


class Regrowing(Callback):
    """Moves connections at regular intervals; the number in each layer never changes."""

    def __init__(self, name: str, density: float, every: int, stop: float, drop: float, interest: Interest) -> None:
        self._name, self._density, self._interest = name, density, interest
        self._every = int(checked(name, "every", every))
        self._stop, self._drop = checked(name, "stop", stop, most=1), checked(name, "drop", drop, most=1)

    def on_train_start(self, state: TrainState) -> None:
        refuse_masked(self._name, state)
        budget(state, self._density)
        self._phase = moment(state, self._stop) - state.times.first
        self._interval = interval(self._every, self._phase)
        # SET and RigL begin with the same masks, so that they differ only in the weights that grow.
        generator = state.generator("erk-start", 0)
        chances = {name: torch.rand(weight.shape, generator=generator) for name, weight in state.weights().items()}
        state.replace_masks(ALLOCATIONS["erk"](chances, self._density, state.masks))

    def after_backward(self, state: TrainState) -> None:
        done = state.step - state.times.first
        if not 0 < done < self._phase or done % self._interval:
            return
        part = drop_fraction(done, self._phase, self._drop)
        generator = state.generator(self._name, state.step)
        weights, masks = state.weights(), {}
        for name, mask in state.masks.items():
            weight = weights[name]
            count = math.floor(part * int(mask.sum()))
            masks[name] = regrown(mask, weight.detach().cpu(), self._interest(weight, generator), count)
        state.replace_masks(masks)
