"""Conv-2, Conv-4 and Conv-6: small VGG-like networks with two hidden linear layers."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.models.base import Shape, initialise, model
from oneticket.models.layers import HalvingPool, Norm, Width, convolution, normalisation, scaled

_SOURCE = "Frankle & Carbin 2019, Fig. 2; Zhou et al. 2019"


class Conv(nn.Module):
    """Pairs of 3 × 3 convolutions, each pair max-pooled, then two linear layers and ``head``."""

    def __init__(self, input_shape: Shape, classes: int, channels: list[int], hidden: int, norm: Norm) -> None:
        super().__init__()
        self.features = nn.Sequential()
        _, height, width = input_shape
        for i, (inputs, outputs) in enumerate(pairwise([input_shape[0], *channels]), start=1):
            self.features.add_module(f"conv{i}", convolution(inputs, outputs, 3, norm=norm))
            self.features.add_module(f"norm{i}", normalisation(norm, outputs))
            self.features.add_module(f"relu{i}", nn.ReLU())
            if i % 2 == 0:
                self.features.add_module(f"pool{i}", HalvingPool())
                height, width = max(1, height // 2), max(1, width // 2)
        self.linear1 = nn.Linear(channels[-1] * height * width, hidden)
        self.linear2 = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, h, w) → (batch, classes)."""
        hidden = F.relu(self.linear1(self.features(images).flatten(1)))
        return self.head(F.relu(self.linear2(hidden)))  # type: ignore[no-any-return]


def _conv(layers: int, input_shape: Shape, classes: int, width: float, norm: Norm) -> nn.Module:
    channels = [scaled(c, width) for c in (64, 64, 128, 128, 256, 256)[:layers]]
    return initialise(Conv(input_shape, classes, channels, scaled(256, width), norm))


@model("conv-2", source=_SOURCE)
def conv_2(input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "none") -> nn.Module:
    """Two 3 × 3 convolutions (64), one max-pool, linear layers of 256 and 256.

    4.3 M weights on 32 × 32 colour images. ``width`` multiplies channels and linear layers; ``norm`` follows each
    convolution. A max-pool leaves a side of one pixel as it is.
    """
    return _conv(2, input_shape, classes, width, norm)


@model("conv-4", source=_SOURCE)
def conv_4(input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "none") -> nn.Module:
    """Four 3 × 3 convolutions (64, 128), two max-pools, linear layers of 256 and 256.

    2.4 M weights on 32 × 32 colour images; options as in conv-2.
    """
    return _conv(4, input_shape, classes, width, norm)


@model("conv-6", source=_SOURCE)
def conv_6(input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "none") -> nn.Module:
    """Six 3 × 3 convolutions (64, 128, 256), three max-pools, linear layers of 256 and 256.

    2.3 M weights on 32 × 32 colour images; options as in conv-2.
    """
    return _conv(6, input_shape, classes, width, norm)
