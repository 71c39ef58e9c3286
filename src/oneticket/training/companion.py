"""What a method does beside the training loop: at which moments it is called, and what it may touch there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.training.keeping import MaskKeeper


@dataclass(frozen=True)
class Course:
    """The training that a companion goes along with.

    Parameters
    ----------
    model : the network, on its device; its parameters stay the same objects throughout.
    optimizer : the optimiser over them.
    keeper : zeroes what the masks of the moment leave out. names : of the masked parameters, in its order.
    steps : T, the number of optimiser steps of the whole recipe; first : the step at which the training begins.
    per_epoch, samples : optimiser steps, and training samples, in an epoch.
    generator : a random generator (on the CPU) for a purpose and a step, the same whenever it is asked for again.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    keeper: MaskKeeper
    names: tuple[str, ...]
    steps: int
    first: int
    per_epoch: int
    samples: int
    generator: Callable[[str, int], torch.Generator]

    @property
    def lr(self) -> float:
        """The learning rate of the moment."""
        return float(self.optimizer.param_groups[0]["lr"])

    def weights(self) -> dict[str, nn.Parameter]:
        """The masked parameters by name."""
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name] for name in self.names}

    @property
    def masks(self) -> Masks:
        """The masks of the moment, on the CPU; methods that make masks while training begin with full ones."""
        return Masks(dict(zip(self.names, self.keeper.masks, strict=True)))

    def replace(self, masks: Mapping[str, Tensor]) -> None:
        """Other masks from now on: weights, and what the optimiser remembers of them, are zeroed accordingly."""
        self.keeper.replace([masks[name] for name in self.names])


class Companion:
    """A method that acts during training; this one does nothing.

    The loop calls, in this order: :meth:`begin` once; then for each step :meth:`before_forward`, :meth:`penalty` (its
    value is added to the loss), :meth:`after_backward` (before gradients are masked and clipped), :meth:`after_step`
    (weights are masked again by then); and :meth:`finish` at the end. Steps count from 0; ``after_step`` hears the
    number of the step that was taken. Whenever the network is judged, it is inside :meth:`judged`.

    What a companion remembers between steps it gives as :meth:`state`, tensors and plain values only, and takes back
    in :meth:`resume`, after ``begin``: a killed training goes on bit for bit. Weights, masks and the optimiser's memory
    are kept by the loop, which puts them back between the two: whatever ``begin`` does to them is undone.
    """

    def begin(self, course: Course) -> None:
        """The training starts; weights are masked."""

    def before_forward(self, step: int) -> None:
        """The weights may be changed for this step's forward and backward pass."""

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss of this step, or nothing."""
        return None

    def after_backward(self, step: int) -> None:
        """Gradients are there, of every weight, masked ones too."""

    def after_step(self, step: int) -> None:
        """The optimiser has stepped."""

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Inside, the network is as it would be judged if training ended now."""
        yield

    def finish(self) -> None:
        """Training is over: make the network, for good, what is judged, and the masks those of the result."""

    def state(self) -> dict[str, Any]:
        """What is remembered between steps."""
        return {}

    def resume(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
