"""Contexts: what a criterion and a mask control may use besides weights and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

from oneticket.calling import Inputs
from oneticket.errors import InputError
from oneticket.lazy import Context, Given
from oneticket.pruning.correspondence import Blocks, Matching, Shapes

Batches: TypeAlias = Iterable[tuple[Inputs, Tensor]]
"""Pairs of inputs and targets."""

BatchLoss: TypeAlias = Callable[[nn.Module, Inputs, Tensor], Tensor]
"""Network, inputs and targets → mean loss of the batch."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ScoreContext(Context):
    """What a criterion may use besides the weights; each field is computed only when it is read.

    Parameters
    ----------
    initial : Callable[[], Mapping[str, Tensor]], optional
        Gives W_0, the weights at initialisation, by parameter name; it may be a full state dict.
    batches : Callable[[], Iterable[tuple[Tensor, Tensor]]], optional
        Gives training batches, pairs of inputs and targets, in a fixed order of their own. They can be iterated
        repeatedly, each time from the first.
    generator : Callable[[], torch.Generator], optional
        Gives the random generator, on the CPU, for criteria that draw.
    loss : Callable[[nn.Module, Inputs, Tensor], Tensor], optional
        The mean loss of a batch where it is not the cross-entropy of classes.

    Raises
    ------
    InputError
        When a field that was not given is read.

    Examples
    --------
    >>> ScoreContext(initial=lambda: {"fc.weight": torch.zeros(2, 3)}).initial["fc.weight"].shape
    torch.Size([2, 3])
    """

    looker = "criterion"
    initial: Given[Mapping[str, Tensor]] = Given("the initial weights")
    batches: Given[Batches] = Given("training batches")
    generator: Given[torch.Generator] = Given("a random generator")
    loss: BatchLoss | None = None

    @cached_property
    def first_batch(self) -> tuple[Inputs, Tensor]:
        """Inputs and targets of the first batch; InputError if there are no batches."""
        for batch in self.batches:
            return batch
        raise InputError("the criterion needs training batches, but there are none", expected="at least one")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ControlContext(Context):
    """What a control may use besides a ticket's masks; each field is computed only when it is read.

    Parameters
    ----------
    generator : Callable[[], torch.Generator], optional
        Gives the random generator, on the CPU.
    initial, trained : Callable[[], Mapping[str, Tensor]], optional
        Give W_0 and W_T of the source's dense training by parameter name; they may be full state dicts.
    matching : Callable[[], Matching], optional
        Gives the order in which the channels of the masks' network match those of the network to be trained:
        parameter name → pairs of a dimension and the order of its indices.
    shapes : Callable[[], Shapes], optional
        Gives the shapes of the prunable weights of the network to be trained, by parameter name.
    head : Callable[[], str or None], optional
        Gives the name of the head's weight, None if the head is not pruned and so has no mask.
    gains : Callable[[], Mapping[str, Tensor]], optional
        Gives γ of the batch normalisation behind each layer that has one, after the dense training: by the name of the
        layer's weight, in a shape that broadcasts to it.
    blocks : str
        The order in which residual blocks are repeated or dropped, ``append`` or ``interleave``.

    Raises
    ------
    InputError
        When a field that was not given is read.

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
    head: Given[str | None] = Given("the head's weight")
    gains: Given[Mapping[str, Tensor]] = Given("the gains of normalisations")
    blocks: Blocks = "append"
