"""Augmentation and normalisation of whole batches of uint8 images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from oneticket.conversion import conform
from oneticket.data.sets import AnySet, ImageSet
from oneticket.errors import InputError

_CHUNK = 4096  # images at a time when values are counted
_LEAST_STD = 1 / 255  # one grey level: the divisor of a channel without variation


class Augmentation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Random changes of a training image, drawn anew for each image in each epoch.

    ``flip``: mirror left to right with probability ½. ``crop``: add a black border of this many pixels and take a
    random window of the original size (He et al. 2016, §4.2, with 4).
    """

    flip: bool = False
    crop: int = 0

    def __post_init__(self) -> None:
        conform(self)
        if self.crop < 0:
            raise InputError(f"crop = {self.crop}", expected="0 or more pixels")

    def __bool__(self) -> bool:
        return self.flip or self.crop > 0


@dataclass(frozen=True, eq=False)
class Draws:
    """The draws for N images: whether each is mirrored, bool [N], and the corner of its window, int64 [N, 2]."""

    mirrored: Tensor
    corner: Tensor

    @classmethod
    def of(cls, augmentation: Augmentation, samples: int, generator: torch.Generator) -> Draws:
        """One draw for each of ``samples`` images; that of image i does not depend on the order of the visits."""
        mirrored = torch.rand(samples, generator=generator) < 0.5
        corner = torch.randint(0, 2 * augmentation.crop + 1, (samples, 2), generator=generator)
        return cls(mirrored & augmentation.flip, corner)

    def to(self, device: torch.device | str) -> Draws:
        """The same draws on another device."""
        return Draws(self.mirrored.to(device), self.corner.to(device))

    @cached_property
    def _mirrors(self) -> bool:
        return bool(self.mirrored.any())

    def augment(self, images: Tensor, samples: Tensor, padding: int) -> Tensor:
        """Images [n, C, H, W] of these samples (int64 [n]): padded, cropped at the corner, then mirrored.

        Copied line by line, not pixel by pixel: a mirrored window is a window of the mirrored image.
        """
        channels, height, width = images.shape[1:]
        corner, mirrored = self.corner.index_select(0, samples), self.mirrored.index_select(0, samples)
        padded = F.pad(images, (padding,) * 4)
        tall, wide = padded.shape[2:]
        size, whole, device = channels * tall * wide, padded.numel(), images.device
        top, left = corner.unbind(1)
        # Offsets of each window, of each line in a window, and of the pixels in a line.
        start = torch.arange(0, whole, size, device=device) + top * wide
        if self._mirrors:
            padded = torch.cat([padded, padded.flip(3)])
            start += torch.where(mirrored, whole + 2 * padding - left, left)
        else:
            start += left
        down = torch.arange(0, size, wide, device=device).view(channels, tall)[:, :height].flatten()
        lines = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
        return lines.index_select(0, (start[:, None] + down).flatten()).view_as(images)


class Normalisation(msgspec.Struct, frozen=True):
    """Mean and standard deviation of each channel, with pixels from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: ImageSet) -> Normalisation:
        """Mean and deviation of a set, usually the training split: exact, from counts of a channel's 256 values."""
        if not len(images):
            raise InputError("an empty image set has no mean", expected="at least one image")
        counts = torch.zeros(images.shape[0], 256, dtype=torch.float64)
        for samples in torch.split(torch.arange(len(images)), _CHUNK):
            for channel, values in enumerate(images.gather(samples).transpose(0, 1)):
                counts[channel] += torch.bincount(values.flatten(), minlength=256)
        values = torch.arange(256, dtype=torch.float64) / 255
        share = counts / counts.sum(1, keepdim=True)
        mean = share @ values
        std = (share * (values - mean[:, None]).square()).sum(1).sqrt().clamp_min(_LEAST_STD)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def factors(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Scale and offset, float32 [1, C, 1, 1]: ``pixel · scale − offset`` is ``(pixel / 255 − mean) / std``."""
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (1 / (255 * std)).float().to(device), (mean / std).float().to(device)


def normalisation_of(samples: AnySet) -> Normalisation | None:
    """The normalisation of images, by the statistics of ``samples``; None for text and tables, which have none."""
    return Normalisation.of(samples) if isinstance(samples, ImageSet) else None
