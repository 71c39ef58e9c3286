"""Networks that are sparse from the first step to the last, with connections that move: SET and RigL.

SET stands here twice: as published, and in the form in which the paper of RigL compares itself with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import checked, interval, moment, start_sparse
from oneticket.pruning.selection import largest, largest_alive
from oneticket.training import Callback, TrainState

Interest = Callable[[Tensor, torch.Generator], Tensor]
"""A weight with its gradient, and a generator on the CPU → scores of that shape; the weights of the largest grow."""


@method("set", source="Mocanu et al. 2018", makes="masks")
def sparse_evolutionary(context: MethodContext, *, drop: float = 0.3) -> Callback:
    """Sparse from the start (ERK); after each epoch the weights nearest to zero go and random ones grow.

    The training begins with a random mask at ρ with ERK layer densities, which are the paper's Erdős–Rényi densities in
    linear layers. Between two epochs, to the end of the training, each layer loses the fraction ζ = ``drop`` of its
    positive weights, the smallest, and of its negative ones, the largest, each number rounded down, and those that are
    exactly zero. Equally many grow, drawn among all weights that are then unused, those just dropped among them. They
    and what the optimiser remembers of them start at zero. Nothing changes after the last epoch: the paper drops
    weights there that do not grow again, the authors' code does not.
    """
    return Evolving(context.density, checked("set", "drop", drop, most=1))


@method("set-cosine", source="Mocanu et al. 2018; drop fraction: Evci et al. 2020", makes="masks")
def set_cosine(context: MethodContext, *, every: int = 100, stop: float = 0.75, drop: float = 0.3) -> Callback:
    """Sparse from the start (ERK); now and then the smallest weights of a layer go and random ones grow.

    Everything else is as in ``rigl``, which was published with this form of SET beside it.
    """
    return Regrowing("set-cosine", context.density, every, stop, drop, _chance)


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


def survivors(mask: Tensor, weight: Tensor, fraction: float) -> Tensor:
    """``mask`` without the fraction ζ of its positive weights, the smallest, and of its negative ones, the largest.

    Both numbers are rounded down; weights that are exactly zero are left out, too. All tensors have one shape; among
    equal values the earlier weight stays.

    >>> mask = torch.tensor([True, True, True, True, True, True, False])
    >>> survivors(mask, torch.tensor([0.3, 0.1, 0.2, -0.9, -0.8, 0.0, 0.0]), 0.5)
    tensor([ True, False,  True,  True, False, False, False])
    """
    staying = torch.zeros_like(mask)
    for side in (weight, -weight):
        own = mask & (side > 0)
        count = int(own.sum())
        staying |= largest_alive(side, own, count - math.floor(fraction * count))
    return staying


def _chance(weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(weight.shape, generator=generator)


def _steepness(weight: Tensor, _: torch.Generator) -> Tensor:
    return torch.zeros(weight.shape) if weight.grad is None else weight.grad.detach().abs().cpu()


class Evolving(Callback):
    """Moves connections between two epochs; the number in each layer never changes."""

    def __init__(self, density: float, drop: float) -> None:
        self._density, self._drop = density, drop

    def on_train_start(self, state: TrainState) -> None:
        start_sparse("set", self._density, state)

    def before_forward(self, state: TrainState) -> None:
        # Before the first step of an epoch, and not after the last one of the epoch before: so the network that is
        # evaluated between the two is the one that was trained, and the last epoch is followed by no change.
        if state.step == state.times.first or state.step % state.times.per_epoch:
            return
        generator, weights = state.generator("set", state.step), state.weights()
        before = state.masks
        staying = {name: survivors(m, weights[name].detach().cpu(), self._drop) for name, m in before.items()}
        # First without, then with the grown ones: one that is drawn again at once begins anew like the others.
        state.replace_masks(staying)
        masks = {}
        for name, kept in staying.items():
            chances, due = torch.rand(kept.shape, generator=generator), int(before[name].sum() - kept.sum())
            masks[name] = kept.clone()
            masks[name][~kept] = largest(chances[~kept], due)
        state.replace_masks(masks)


class Regrowing(Callback):
    """Moves connections at regular intervals; the number in each layer never changes."""

    def __init__(self, name: str, density: float, every: int, stop: float, drop: float, interest: Interest) -> None:
        self._name, self._density, self._interest = name, density, interest
        self._every = int(checked(name, "every", every))
        self._stop, self._drop = checked(name, "stop", stop, most=1), checked(name, "drop", drop, most=1)

    def on_train_start(self, state: TrainState) -> None:
        start_sparse(self._name, self._density, state)
        self._phase = moment(state, self._stop) - state.times.first
        self._interval = interval(self._every, self._phase)

    def after_backward(self, state: TrainState) -> None:
        done = state.step - state.times.first
        if not 0 < done < self._phase or done % self._interval:
            return
        part = drop_fraction(done, self._phase, self._drop)
        generator = state.generator("set", state.step)
        weights, masks = state.weights(), {}
        for name, mask in state.masks.items():
            weight = weights[name]
            count = math.floor(part * int(mask.sum()))
            masks[name] = regrown(mask, weight.detach().cpu(), self._interest(weight, generator), count)
        state.replace_masks(masks)
