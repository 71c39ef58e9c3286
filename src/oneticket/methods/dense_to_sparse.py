"""Cutting while training: all weights at first, exactly ⌊ρN⌉ from a stated moment on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.pruning import ALLOCATIONS, kept_count
from oneticket.training import Callback, TrainState
from oneticket.training.start import Timetable


def checked(
    method: str, option: str, value: float, *, least: float = 0.0, most: float = math.inf, reached: bool = False
) -> float:
    """``value``; InputError unless it is above ``least``, or equal to it if ``reached``, and at most ``most``."""
    if not (least < value or (reached and least == value)) or value > most or not math.isfinite(value):
        bound = f"{'of at least' if reached else 'above'} {least:g}" + (
            "" if math.isinf(most) else f", at most {most:g}"
        )
        raise InputError(f"{option} = {value}", where=f"method '{method}'", expected=f"a number {bound}")
    return value


def moment(state: TrainState, fraction: float) -> int:
    """The step of the recipe at ``fraction`` of this training, rounded; at least one step after its start."""
    return moment_of(state.times, fraction)


def moment_of(times: Timetable, fraction: float) -> int:
    """:func:`moment` of a training with these times, before it begins."""
    return times.first + max(1, math.floor(fraction * (times.total - times.first) + 0.5))


def interval(every: int, phase: int) -> int:
    """Steps between two changes of the masks: ``every``, or a tenth of the phase of ``phase`` steps if that is less.

    So short trainings, too, change their masks about ten times, and trainings of fewer than twenty steps at each step.

    >>> interval(100, 5000), interval(100, 300), interval(100, 8)
    (100, 30, 1)
    """
    return max(1, min(every, phase // 10))


def budget(state: TrainState, density: float) -> int:
    """⌊ρN⌉ of the N weights that the training may mask; InputError if it may mask no weight or would keep none."""
    alive = state.masks
    if not alive:
        raise InputError("the method makes masks, but was not given the weights to mask", expected="full masks")
    count = kept_count(density, alive.total)
    if not 0 < density <= 1 or not 1 <= count <= alive.kept:
        raise InputError(
            f"density {density} would keep {count} of {alive.total} weights", expected=f"1 to {alive.kept} kept"
        )
    return count


def refuse_masked(method: str, state: TrainState) -> None:
    """Raise InputError if the training begins with masked weights, but the method needs all of them."""
    partial = [row for row in state.masks.table() if row.kept < row.total]
    if partial:
        raise InputError(
            f"the mask of '{partial[0].name}' keeps {partial[0].kept} of {partial[0].total} weights",
            where=f"method '{method}'",
            expected="full masks: the method makes its own masks from all weights",
        )


def start_sparse(method_name: str, density: float, state: TrainState, allocation: str = "erk") -> None:
    """Begin with a random mask at ρ, by default with ERK layer densities, the same one for all methods of this kind.

    So they differ only in what goes and what grows. InputError if the training begins with masked weights, or ρ would
    keep none.
    """
    refuse_masked(method_name, state)
    budget(state, density)
    generator = state.generator("erk-start", 0)
    chances = {name: torch.rand(weight.shape, generator=generator) for name, weight in state.weights().items()}
    state.replace_masks(ALLOCATIONS[allocation](chances, density, state.masks))


class Cutting(Callback):
    """Begins with all given weights and keeps exactly ⌊ρN⌉ of them from the cut on, under fixed masks.

    An evaluation before the cut sees the network cut to ρ at that moment: no accuracy in the history belongs to a
    denser network. A subclass defines the work before the cut (:meth:`learn`) and the weights that stay
    (:meth:`settle`).

    Parameters
    ----------
    density : ρ at the end.
    cut : the fraction of the training after which it is reached.
    allocation : the registered allocation by which :meth:`settle` chooses among the magnitudes of all layers.
    """

    def __init__(self, density: float, cut: float, allocation: str = "global") -> None:
        self.density, self.fraction, self.allocation = density, cut, allocation
        self.is_cut = False

    def on_train_start(self, state: TrainState) -> None:
        self.count = budget(state, self.density)
        self.training, self.weights = state, list[Tensor](state.weights().values())
        self.cut_at = moment(state, self.fraction)

    def learn(self, state: TrainState) -> None:
        """Called after each step until the cut."""

    def settle(self, density: float) -> Masks:
        """Masks of the ⌊density·N⌉ weights that stay, by default the largest; the method may change their values.

        The largest of the whole network together, or of each layer, as the allocation says. Ties are broken by index,
        so that the count is exact even if more weights are zero.
        """
        magnitudes = {name: weight.detach().abs().cpu() for name, weight in self.training.weights().items()}
        return ALLOCATIONS[self.allocation](magnitudes, density, self.training.masks)

    def after_step(self, state: TrainState) -> None:
        if self.is_cut:
            return
        self.learn(state)
        if state.step + 1 == self.cut_at:
            self._cut()

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        if self.is_cut:
            yield
            return
        with torch.no_grad():
            before = [weight.clone() for weight in self.weights]
            masks = self.settle(self.density)
            for weight, mask in zip(self.weights, masks.values(), strict=True):
                weight.masked_fill_(~mask.to(weight.device), 0)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, before)

    def on_train_end(self, state: TrainState) -> None:
        if not self.is_cut:  # a training without a step
            self._cut()

    def _cut(self) -> None:
        self.training.replace_masks(self.settle(self.density))
        self.is_cut = True

    def state_dict(self) -> dict[str, Any]:
        return {"is_cut": self.is_cut}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.is_cut = saved["is_cut"]
