"""Residual networks: the CIFAR family (20, 32, 56) and the ImageNet family (18, 50)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import unknown
from oneticket.models.base import Shape, initialise, model
from oneticket.models.layers import Norm, Width, convolution, normalisation, scaled

Shortcut = Literal["projection", "identity"]
Stem = Literal["auto", "cifar", "imagenet"]


class PaddedIdentity(nn.Module):
    """The parameter-free shortcut: every ``stride``-th pixel, missing channels zero (option A of He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.missing, self.stride = outputs - inputs, stride

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, inputs, h, w) → (batch, outputs, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))


class Block(nn.Module):
    """Convolutions of ``sizes``, each normalised, added to a shortcut; the first 3 × 3 has the stride.

    ``channels`` are the block's inputs and then the outputs of each convolution.
    """

    def __init__(
        self, channels: Sequence[int], sizes: Sequence[int], *, stride: int, shortcut: Shortcut, norm: Norm
    ) -> None:
        super().__init__()
        self.body = nn.Sequential()
        strided = sizes.index(3)
        for i, ((inputs, outputs), size) in enumerate(zip(pairwise(channels), sizes, strict=True)):
            step = stride if i == strided else 1
            if i > 0:
                self.body.add_module(f"relu{i}", nn.ReLU())
            self.body.add_module(f"conv{i + 1}", convolution(inputs, outputs, size, stride=step, norm=norm))
            self.body.add_module(f"norm{i + 1}", normalisation(norm, outputs))
        self.shortcut = _shortcut(shortcut, channels[0], channels[-1], stride, norm)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, inputs, h, w) → (batch, outputs, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return F.relu(self.body(maps) + self.shortcut(maps))


class ResNet(nn.Module):
    """``stem``, ``stages`` of which each but the first halves the map, global average pooling, ``head``.

    Parameters
    ----------
    stem : from the image to ``channels[0]`` maps.
    channels : maps after the stem, then the width of each stage.
    depths : blocks in each stage.
    sizes : of the convolutions in a block; three make a bottleneck, which gives four times its stage's width.
    """

    def __init__(
        self,
        stem: nn.Module,
        channels: Sequence[int],
        depths: Sequence[int],
        sizes: Sequence[int],
        classes: int,
        *,
        shortcut: Shortcut,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential()
        inputs, expansion = channels[0], 4 if len(sizes) == 3 else 1
        for stage, (inner, depth) in enumerate(zip(channels[1:], depths, strict=True), start=1):
            blocks = nn.Sequential()
            for block in range(depth):
                widths = [inputs, *[inner] * (len(sizes) - 1), inner * expansion]
                stride = 2 if stage > 1 and block == 0 else 1
                blocks.append(Block(widths, sizes, stride=stride, shortcut=shortcut, norm=norm))
                inputs = widths[-1]
            self.stages.append(blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, h, w) → (batch, classes)."""
        return self.head(self.stages(self.stem(images)).mean((2, 3)))  # type: ignore[no-any-return]


def _shortcut(kind: Shortcut, inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    if kind not in get_args(Shortcut):
        raise unknown("shortcut", kind, get_args(Shortcut))
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if kind == "identity":
        return PaddedIdentity(inputs, outputs, stride)
    projection = convolution(inputs, outputs, 1, stride=stride, norm=norm)
    return nn.Sequential(OrderedDict(conv=projection, norm=normalisation(norm, outputs)))


def _stem(kind: Stem, input_shape: Shape, outputs: int, norm: Norm) -> nn.Module:
    """One convolution: 3 × 3 that keeps the size (cifar), or 7 × 7 and a max-pool that quarter it (imagenet)."""
    if kind not in get_args(Stem):
        raise unknown("stem", kind, get_args(Stem))
    inputs, height, _ = input_shape
    small = kind == "cifar" or (kind == "auto" and height <= 64)
    size, stride = (3, 1) if small else (7, 2)
    stem = nn.Sequential(
        OrderedDict(
            conv=convolution(inputs, outputs, size, stride=stride, norm=norm),
            norm=normalisation(norm, outputs),
            relu=nn.ReLU(),
        )
    )
    if not small:
        stem.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
    return stem


def _cifar(blocks: int, input_shape: Shape, classes: int, width: float, norm: Norm, shortcut: Shortcut) -> nn.Module:
    channels = [scaled(c, width) for c in (16, 16, 32, 64)]
    stem = _stem("cifar", input_shape, channels[0], norm)
    return initialise(ResNet(stem, channels, [blocks] * 3, (3, 3), classes, shortcut=shortcut, norm=norm))


def _imagenet(
    depths: Sequence[int],
    sizes: Sequence[int],
    input_shape: Shape,
    classes: int,
    *,
    stem: Stem,
    width: float,
    norm: Norm,
    shortcut: Shortcut,
) -> nn.Module:
    channels = [scaled(c, width) for c in (64, 64, 128, 256, 512)]
    first = _stem(stem, input_shape, channels[0], norm)
    return initialise(ResNet(first, channels, depths, sizes, classes, shortcut=shortcut, norm=norm))


@model("resnet20", source="He et al. 2016, §4.2; Renda et al. 2020")
def resnet20(
    input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "batch", shortcut: Shortcut = "projection"
) -> nn.Module:
    """Three stages of 3 residual blocks with 16, 32 and 64 channels; 0.27 M weights.

    ``width`` multiplies the channels. ``shortcut`` where the size changes: ``projection``, a normalised 1 × 1
    convolution (option B), or ``identity``, padded with zeros and free of parameters (option A).
    """
    return _cifar(3, input_shape, classes, width, norm, shortcut)


@model("resnet32", source="He et al. 2016, §4.2")
def resnet32(
    input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "batch", shortcut: Shortcut = "projection"
) -> nn.Module:
    """Three stages of 5 residual blocks with 16, 32 and 64 channels; 0.46 M weights. Options as in resnet20."""
    return _cifar(5, input_shape, classes, width, norm, shortcut)


@model("resnet56", source="He et al. 2016, §4.2; Renda et al. 2020")
def resnet56(
    input_shape: Shape, classes: int, width: Width = 1.0, norm: Norm = "batch", shortcut: Shortcut = "projection"
) -> nn.Module:
    """Three stages of 9 residual blocks with 16, 32 and 64 channels; 0.85 M weights. Options as in resnet20."""
    return _cifar(9, input_shape, classes, width, norm, shortcut)


@model("resnet18", source="He et al. 2016, Table 1")
def resnet18(
    input_shape: Shape,
    classes: int,
    width: Width = 1.0,
    norm: Norm = "batch",
    shortcut: Shortcut = "projection",
    stem: Stem = "auto",
) -> nn.Module:
    """Four stages of 2 residual blocks with 64 to 512 channels; 11.2 M weights.

    ``stem`` is ``cifar`` (3 × 3, stride 1, no max-pool), ``imagenet`` (7 × 7, stride 2, max-pool), or ``auto``: cifar
    for images at most 64 pixels high. Other options as in resnet20.
    """
    return _imagenet((2, 2, 2, 2), (3, 3), input_shape, classes, stem=stem, width=width, norm=norm, shortcut=shortcut)


@model("resnet50", source="He et al. 2016, Table 1; Goyal et al. 2017, §5.1 (stride in the 3 × 3)")
def resnet50(
    input_shape: Shape,
    classes: int,
    width: Width = 1.0,
    norm: Norm = "batch",
    shortcut: Shortcut = "projection",
    stem: Stem = "auto",
) -> nn.Module:
    """Four stages of 3, 4, 6 and 3 bottleneck blocks with 256 to 2048 channels; 23.5 M weights.

    Options as in resnet18.
    """
    return _imagenet(
        (3, 4, 6, 3), (1, 3, 1), input_shape, classes, stem=stem, width=width, norm=norm, shortcut=shortcut
    )
