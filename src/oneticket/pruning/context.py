"""What a criterion and a mask control may look at beyond weights and masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from oneticket.errors import InputError
from oneticket.lazy import Context, Given
from oneticket.pruning.correspondence import Matching, Shapes

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]
"""Pairs of inputs and targets."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ScoreContext(Context):
    """What a criterion may look at beyond the weights; what it does not ask for is not computed.

    Parameters
    ----------
    initial : Callable[[], Mapping[str, Tensor]], optional
        Gives W_0, the weights at initialisation, by parameter name; a full state dict will do.
    batches : Callable[[], Iterable[tuple[Tensor, Tensor]]], optional
        Gives training batches, pairs of inputs and targets, in an order of their own. They can be gone through from the
        first as often as asked.
    generator : Callable[[], torch.Generator], optional
        Gives the random generator, on the CPU, of criteria that draw.

    Raises
    ------
    InputError
        When a field that was not given is asked for.

    Examples
    --------
    >>> ScoreContext(initial=lambda: {"fc.weight": torch.zeros(2, 3)}).initial["fc.weight"].shape
    torch.Size([2, 3])
    """

    looker = "criterion"
    initial: Given[Mapping[str, Tensor]] = Given("the initial weights")
    batches: Given[Batches] = Given("training batches")
    generator: Given[torch.Generator] = Given("a random generator")

    @cached_property
    def first_batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the first batch; InputError when there is none."""
        for batch in self.batches:
            return batch
        raise InputError("the criterion looks at training batches, of which there are none", expected="at least one")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ControlContext(Context):
    """What a control may look at beyond a ticket's masks; what it does not ask for is not computed.

    Parameters
    ----------
    generator : Callable[[], torch.Generator], optional
        Gives the random generator, on the CPU.
    initial, trained : Callable[[], Mapping[str, Tensor]], optional
        Give W_0 and W_T of the source's dense training by parameter name; a full state dict will do.
    matching : Callable[[], Matching], optional
        Gives the order of the channels of the network to be trained, among those that the masks are of: parameter name
        → pairs of a dimension and the order of its indices.
    shapes : Callable[[], Shapes], optional
        Gives the shapes of the prunable weights of the network to be trained, by parameter name.

    Raises
    ------
    InputError
        When a field that was not given is asked for.

    Examples
    --------
    >>> ControlContext(shapes=lambda: {"fc.weight": (2, 3)}).shapes
    {'fc.weight': (2, 3)}
    """

    looker = "control"
    generator: Given[torch.Generator] = Given("a random generator")
    initial: Given[Mapping[str, Tensor]] = Given("the initial weights")
    trained: Given[Mapping[str, Tensor]] = Given("the densely trained weights")
    matching: Given[Matching] = Given("a matching of channels")
    shapes: Given[Shapes] = Given("the shapes of the network to be trained")
