"""Cyclic training: the recipe from its first step on, again and again; alone, or with one cut before the last time."""

from __future__ import annotations

from typing import Literal

from oneticket.errors import InputError
from oneticket.methods.base import MethodContext, method
from oneticket.methods.dense_to_sparse import Cutting, checked, start_sparse
from oneticket.training import Callback, TrainState


@method("cyclic", source="Gadhikar et al. 2024", repeats=True)
def cyclic(_: MethodContext, *, cycles: int = 2) -> Callback:
    """The whole recipe ``cycles`` times one after the other, with a fresh schedule and optimiser each time."""
    _check_cycles("cyclic", cycles, 1)
    return Callback()


@method("sculpt", source="Gadhikar et al. 2024: SCULPT-ing", makes="masks", repeats=True)
def sculpt(
    context: MethodContext,
    *,
    cycles: int = 3,
    factor: float = 4.0,
    allocation: Literal["erk", "global"] = "erk",
) -> Callback:
    """A random mask of a higher density is trained in cycles; one cut by magnitude; one more cycle.

    The training begins with a random mask of density ρ₀ = min(1, ``factor`` · ρ), with ERK layer densities or, with
    ``allocation`` = ``global``, uniform over the whole network. The recipe is run ``cycles`` times, each time with a
    fresh schedule and optimiser. Before the last time the ⌊ρN⌉ largest |W| of the whole network stay; the last cycle
    goes on from their trained values.
    """
    _check_cycles("sculpt", cycles, 2)
    return Sculpting(context.density, checked("sculpt", "factor", factor, least=1, reached=True), cycles, allocation)


def _check_cycles(name: str, cycles: int, least: int) -> None:
    if cycles < least:
        raise InputError(f"cycles = {cycles}", where=f"method '{name}'", expected=f"at least {least}")


def first_density(density: float, factor: float) -> float:
    """ρ₀, the density before the cut.

    >>> first_density(0.1, 4.0), first_density(0.5, 4.0)
    (0.4, 1.0)
    """
    return min(1.0, factor * density)


class Sculpting(Cutting):
    """Begins with a random mask at ρ₀, and cuts to ρ by magnitude where the last of ``cycles`` equal parts begins."""

    def __init__(self, density: float, factor: float, cycles: int, allocation: str) -> None:
        super().__init__(density, cut=(cycles - 1) / cycles)
        self._first, self._start = first_density(density, factor), allocation

    def on_train_start(self, state: TrainState) -> None:
        start_sparse("sculpt", self._first, state, self._start)
        super().on_train_start(state)
