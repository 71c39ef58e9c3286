"""Circumstances: what a mask control may look at beyond the masks it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.pruning.correspondence import Matching, Shapes

T = TypeVar("T")


class Circumstances:
    """What a control may look at beyond a ticket's masks; what it does not ask for is not computed.

    Each argument is called when its property is first asked for, and once at most. Asking for what was not given raises
    InputError.

    Parameters
    ----------
    generator : gives the random generator, on the CPU.
    initial, trained : give W_0 and W_T of the source's dense training by parameter name (a full state dict will do).
    matching : gives the order of the channels of the network to be trained, among those that the masks are of.
    shapes : gives the shapes of the prunable weights of the network to be trained.

    >>> Circumstances(shapes=lambda: {"fc.weight": (2, 3)}).shapes
    {'fc.weight': (2, 3)}
    """

    def __init__(
        self,
        *,
        generator: Callable[[], torch.Generator] | None = None,
        initial: Callable[[], Mapping[str, Tensor]] | None = None,
        trained: Callable[[], Mapping[str, Tensor]] | None = None,
        matching: Callable[[], Matching] | None = None,
        shapes: Callable[[], Shapes] | None = None,
    ) -> None:
        self._generator, self._initial, self._trained = generator, initial, trained
        self._matching, self._shapes = matching, shapes

    @cached_property
    def generator(self) -> torch.Generator:
        """The random generator, on the CPU."""
        return _given(self._generator, "generator", "a random generator")

    @cached_property
    def initial(self) -> Mapping[str, Tensor]:
        """W_0 of the source's dense training, by parameter name."""
        return _given(self._initial, "initial", "the initial weights")

    @cached_property
    def trained(self) -> Mapping[str, Tensor]:
        """W_T of the source's dense training, by parameter name."""
        return _given(self._trained, "trained", "the densely trained weights")

    @cached_property
    def matching(self) -> Matching:
        """Parameter name → pairs of a dimension and the order of its indices."""
        return _given(self._matching, "matching", "a matching of channels")

    @cached_property
    def shapes(self) -> Shapes:
        """Parameter name → shape, of the prunable weights of the network to be trained."""
        return _given(self._shapes, "shapes", "the shapes of the network to be trained")


def _given(source: Callable[[], T] | None, name: str, thing: str) -> T:
    if source is None:
        raise InputError(f"the control looks at {thing}, not given", expected=f"Circumstances({name}=…)")
    return source()
