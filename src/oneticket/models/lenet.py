"""The fully connected network of LeCun et al."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.models.base import Shape, initialise, model
from oneticket.models.layers import Width, scaled


class LeNet(nn.Module):
    """Two hidden layers over the flattened image: ``linear1``, ``linear2``, ``head``."""

    def __init__(self, inputs: int, hidden: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(inputs, hidden[0])
        self.linear2 = nn.Linear(hidden[0], hidden[1])
        self.head = nn.Linear(hidden[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, h, w) → (batch, classes)."""
        hidden = F.relu(self.linear1(images.flatten(1)))
        return self.head(F.relu(self.linear2(hidden)))  # type: ignore[no-any-return]


@model("lenet-300-100", source="LeCun et al. 1998; Frankle & Carbin 2019, Fig. 2", takes="numbers")
def lenet_300_100(input_shape: Shape, classes: int, width: Width = 1.0) -> nn.Module:
    """Fully connected, hidden layers of 300 and 100; takes images of any shape.

    266,200 weights besides the head on 28 × 28 grey images. ``width`` multiplies both hidden layers.
    """
    return initialise(LeNet(math.prod(input_shape), (scaled(300, width), scaled(100, width)), classes))
