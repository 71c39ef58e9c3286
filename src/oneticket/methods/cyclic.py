"""Cyclic training: the recipe from its first step on, again and again."""

from __future__ import annotations

from oneticket.errors import InputError
from oneticket.methods.base import MethodContext, method
from oneticket.training import Callback


@method("cyclic", source="Gadhikar et al. 2024", repeats=True)
def cyclic(_: MethodContext, *, cycles: int = 2) -> Callback:
    """The whole recipe ``cycles`` times one after the other, with a fresh schedule and optimiser each time."""
    if cycles < 1:
        raise InputError(f"cycles = {cycles}", where="method 'cyclic'", expected="at least 1")
    return Callback()
