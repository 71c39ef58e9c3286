"""A fully connected network of any widths."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.models.base import Shape, initialise, model
from oneticket.models.layers import Width, scaled


class MLP(nn.Module):
    """Hidden layers over the flattened input, ``linear1``, ``linear2`` …, and ``head``."""

    def __init__(self, inputs: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.depth = len(widths)
        for number, (before, after) in enumerate(pairwise((inputs, *widths)), start=1):
            self.add_module(f"linear{number}", nn.Linear(before, after))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, …) → (batch, classes)."""
        hidden = inputs.flatten(1)
        for number in range(1, self.depth + 1):
            hidden = F.relu(self.get_submodule(f"linear{number}")(hidden))
        return self.head(hidden)  # type: ignore[no-any-return]


@model("mlp", source="Rumelhart et al. 1986", takes="numbers")
def mlp(input_shape: Shape, classes: int, widths: tuple[int, ...] = (256, 256), width: Width = 1.0) -> nn.Module:
    """Fully connected with ReLU, hidden layers of ``widths``; takes rows of tables and images of any shape.

    ``width`` multiplies all of them.
    """
    if not widths or min(widths) < 1:
        raise InputError(f"widths = {list(widths)}", expected="one or more numbers of at least 1")
    return initialise(MLP(math.prod(input_shape), tuple(scaled(units, width) for units in widths), classes))
