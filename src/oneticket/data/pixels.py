"""Size and channels: images brought to a given shape."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from oneticket.errors import InputError

Fit = Literal["resize", "pad"]
_CHUNK = 1024  # images at a time: float32 copies stay small next to the data set


def fitted(images: Tensor, side: int, fit: Fit) -> Tensor:
    """``images`` brought to ``side`` × ``side``; uint8 [N, C, H, W] in and out.

    ``resize`` interpolates bilinearly, antialiased when it shrinks (each pixel is then the weighted mean of the area
    it covers), and does not keep the ratio of height to width. ``pad`` puts the image in the middle of a black square
    (one pixel nearer the upper left where the border is odd) and raises InputError for an image that is larger.
    """
    height, width = images.shape[-2:]
    if (height, width) == (side, side):
        return images
    if fit == "pad":
        check_padding(height, width, side)
        top, left = (side - height) // 2, (side - width) // 2
        return F.pad(images, (left, side - width - left, top, side - height - top))
    out = torch.empty(*images.shape[:2], side, side, dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK].float()
        part = F.interpolate(part, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        out[start : start + _CHUNK] = part.round_().clamp_(0, 255)
    return out


def check_padding(height: int, width: int, side: int) -> None:
    """Raise InputError if an image of this size does not fit into a square of ``side``."""
    if max(height, width) > side:
        raise InputError(
            f"images of {height}×{width} cannot be padded to {side}×{side}", where="size", expected='fit = "resize"'
        )


def recoloured(images: Tensor, channels: int) -> Tensor:
    """``images`` with ``channels`` channels (1 or 3); uint8 [N, C, H, W] in and out.

    Grey to colour repeats the channel (as the paper does for Fashion-MNIST); colour to grey takes the luma of ITU-R
    BT.601, 0.299 R + 0.587 G + 0.114 B, in 16-bit fixed point.
    """
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
    out = torch.empty(len(images), 1, *images.shape[2:], dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        luma = (images[start : start + _CHUNK].int() * weights).sum(1, keepdim=True)
        out[start : start + _CHUNK] = (luma + 0x8000) >> 16
    return out
