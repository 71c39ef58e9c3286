"""VGG in the form that pruning papers use: normalised, globally pooled, one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from oneticket.models.base import Shape, initialise, model
from oneticket.models.layers import HalvingPool, Norm, Width, convolution, normalisation, scaled

_SOURCE = "Simonyan & Zisserman 2015, Table 1; Morcos et al. 2019, §3"
_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five groups of 3 × 3 convolutions with a max-pool between two groups, global average pooling and ``head``."""

    def __init__(self, input_shape: Shape, classes: int, depths: tuple[int, ...], width: float, norm: Norm) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inputs, i = input_shape[0], 0
        for group, (depth, channels) in enumerate(zip(depths, _CHANNELS, strict=True)):
            if group > 0:
                self.features.add_module(f"pool{group}", HalvingPool())
            for _ in range(depth):
                i += 1
                outputs = scaled(channels, width)
                self.features.add_module(f"conv{i}", convolution(inputs, outputs, 3, norm=norm))
                self.features.add_module(f"norm{i}", normalisation(norm, outputs))
                self.features.add_module(f"relu{i}", nn.ReLU())
                inputs = outputs
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, h, w) → (batch, classes)."""
        return self.head(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]


@model("vgg11", source=_SOURCE)
def vgg11(input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "batch") -> nn.Module:
    """8 convolutions with normalisation, 4 max-pools, global average pooling, one linear layer.

    9.2 M weights; options as in vgg19.
    """
    return initialise(VGG(input_shape, classes, (1, 1, 2, 2, 2), width, norm))


@model("vgg16", source=_SOURCE)
def vgg16(input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "batch") -> nn.Module:
    """13 convolutions with normalisation, 4 max-pools, global average pooling, one linear layer.

    14.7 M weights; options as in vgg19.
    """
    return initialise(VGG(input_shape, classes, (2, 2, 3, 3, 3), width, norm))


@model("vgg19", source=_SOURCE)
def vgg19(input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "batch") -> nn.Module:
    """16 convolutions with normalisation, 4 max-pools, global average pooling, one linear layer.

    20.03 M parameters. ``width`` multiplies the channels; convolutions have a bias only where ``norm`` is ``none``. A
    max-pool leaves a side of one pixel as it is, so 8 × 8 images pass too.
    """
    return initialise(VGG(input_shape, classes, (2, 2, 4, 4, 4), width, norm))
