"""A vision transformer for small images: patches, fixed positions, blocks, the mean over the patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.models.base import Shape, model
from oneticket.models.transformer import Count, Ratio, blocks, initialise_transformer


class Patches(nn.Module):
    """Cuts images into square patches; a side that is not a multiple is padded with zeros on the right or below."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, h, w) → (batch, ⌈h / size⌉ · ⌈w / size⌉, channels · size²), row by row."""
        size = self.size
        height, width = images.shape[-2:]
        if height % size or width % size:
            images = F.pad(images, (0, -width % size, 0, -height % size))
        batch, channels, height, width = images.shape
        cut = images.reshape(batch, channels, height // size, size, width // size, size)
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class ViT(nn.Module):
    """Patches, ``embed``, positions, ``blocks``, ``norm``, the mean over the patches, ``head``."""

    positions: Tensor

    def __init__(
        self, input_shape: Shape, classes: int, *, patch: int, width: int, depth: int, heads: int, ratio: float
    ) -> None:
        super().__init__()
        channels, height, side = input_shape
        self.patches = Patches(patch)
        self.embed = nn.Linear(channels * patch**2, width)
        grid = (math.ceil(height / patch), math.ceil(side / patch))
        self.register_buffer("positions", positions_of(*grid, width), persistent=False)
        self.blocks = blocks(width, depth, heads, ratio, causal=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, h, w) → (batch, classes)."""
        tokens = self.blocks(self.embed(self.patches(images)) + self.positions)
        return self.head(self.norm(tokens).mean(1))  # type: ignore[no-any-return]


def positions_of(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of each patch's row and column, float32, (rows · columns, width).

    A quarter of the width each for sin and cos of row and column; frequencies 10000^(−i / n), i = 0 … n − 1
    (Vaswani et al. 2017, §3.5, in two dimensions).
    """
    if width % 4:
        raise InputError(f"width = {width}", expected=f"a multiple of 4, such as {max(4, round(width / 4) * 4)}")
    quarter = width // 4
    frequencies = 10000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None].double() * frequencies for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1).float()


@model("vit", source="Dosovitskiy et al. 2021; Beyer et al. 2022, §3", draws="own")
def vit(
    input_shape: Shape,
    classes: int,
    patch: Count = 4,
    width: Count = 192,
    depth: Count = 6,
    heads: Count = 3,
    ratio: Ratio = 4.0,
) -> nn.Module:
    """Vision transformer without a class token: pre-norm blocks over patches, fixed positions, the mean over patches.

    2.66 M weights: ``embed``, the ``query``, ``key``, ``value`` and ``output`` of attention, the ``expand`` and
    ``contract`` of the MLPs; positions, norms and the head are not pruned. ``width`` is the number of channels, a
    multiple of 4 and of ``heads``; an MLP has ``ratio`` times as many. Parameters do not depend on the image size.
    """
    network = ViT(input_shape, classes, patch=patch, width=width, depth=depth, heads=heads, ratio=ratio)
    return initialise_transformer(network)
