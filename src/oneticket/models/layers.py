"""Parts that the networks here share: width, normalisation, pooling, convolutions."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import unknown
from oneticket.kernels.pointwise import PointwiseConv2d, is_faulty

Width = Annotated[float, Meta(gt=0)]
Norm = Literal["batch", "group", "none"]


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 1."""
    return max(1, round(channels * width))


def convolution(inputs: int, outputs: int, size: int, *, stride: int = 1, norm: Norm = "none") -> nn.Conv2d:
    """A ``size × size`` convolution to ⌈side / stride⌉ pixels; without bias if a normalisation follows."""
    kind = PointwiseConv2d if is_faulty(inputs, (size,), (stride,), (size // 2,)) else nn.Conv2d
    return kind(inputs, outputs, size, stride=stride, padding=size // 2, bias=norm == "none")


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """The layer that follows a convolution of ``channels`` outputs.

    ``group`` makes as many equal groups as leave at least 16 channels in each (Wu & He 2018, §4.1 tries 16 per group),
    so one group for fewer than 32 channels: a group of one channel would erase the value of a one-pixel map.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        groups = next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if norm == "none":
        return nn.Identity()
    raise unknown("norm", norm, get_args(Norm))


class HalvingPool(nn.Module):
    """2 × 2 max-pooling that halves each side of a map, rounding down; a side of one pixel stays one pixel.

    So the same network, with the same parameter names, takes 8 × 8 digits and 32 × 32 photographs.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, h, w) → (batch, channels, max(1, h // 2), max(1, w // 2))."""
        height, width = maps.shape[-2:]
        return F.max_pool2d(maps, (min(2, height), min(2, width)))
