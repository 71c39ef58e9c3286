"""Watching: callbacks are what they say, with moments that there are, and observers that leave the network alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from torch import Tensor

from oneticket.errors import InputError

if TYPE_CHECKING:
    from oneticket.training.state import TrainState

_BEGINNINGS = ("on_", "before_", "after_")
_EACH_STEP = ("before_forward", "after_backward", "after_step", "on_step_end")


def refuse_other_moments(callback: object, known: Collection[str]) -> None:
    """Refuse a callback with a method that looks like a moment of the training, but would never be called.

    Raises InputError for a method whose name begins as those of ``known`` do, or is nearly one of them.
    """
    for name in dir(type(callback)):
        if name.startswith("_") or name in known or not callable(getattr(type(callback), name)):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if near or name.startswith(_BEGINNINGS):
            near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise InputError(
                f"the callback {type(callback).__name__} has {name}, which is not a moment of a training",
                expected=f"one of {', '.join(known)}; or a name of its own, such as _{name}",
                nearest=near[0] if near else None,
            )


def watched(call: Callable[[TrainState], Any], callback: object, moment: str) -> Callable[[TrainState], Any]:
    """``call``, a method of an observer; InputError when it has changed weights or buffers of the network.

    torch counts the changes of each tensor. A change through ``.data`` escapes it, so sums of the values are compared
    too; at moments of each step only the first time, since that takes a pass over the network.
    """
    looked = False

    def watching(state: TrainState) -> Any:
        nonlocal looked
        thorough, looked = not looked or moment not in _EACH_STEP, True
        tensors = [*state.network.parameters(), *state.network.buffers()]
        before = _seen(tensors, thorough)
        result = call(state)
        if _seen(tensors, thorough) != before:
            name = type(callback).__name__
            what = (
                f"the callback {name} has modifies = False, but its {moment} changed the network at step {state.step}"
            )
            raise InputError(what, expected="modifies = True, or a callback that only looks")
        return result

    return watching


def _seen(tensors: list[Tensor], thorough: bool) -> tuple[list[int], str]:
    sums = [tensor.detach().double().sum().item() for tensor in tensors] if thorough else []
    return [tensor._version for tensor in tensors], repr(sums)  # as text, because NaN does not equal itself
