"""Images innermost: the memory layout of the sparse kernels, as strides of an ordinary tensor N × C × H × W."""

from __future__ import annotations

import torch
from torch import Tensor


def is_planes(images: Tensor) -> bool:
    """Whether N × C × H × W ``images`` lie in memory as C × H × W × N."""
    return images.dim() == 4 and images.permute(1, 2, 3, 0).is_contiguous()


def as_planes(images: Tensor) -> Tensor:
    """The C × H × W × N tensor of N × C × H × W ``images``, contiguous; copied only if they lie otherwise."""
    count, channels, height, width = images.shape
    planes = images.permute(1, 2, 3, 0)
    if planes.is_contiguous():
        return planes
    # Torch transposes matrices four times as fast as it permutes.
    if images.is_contiguous():
        return images.reshape(count, -1).t().contiguous().view(planes.shape)
    if images.is_contiguous(memory_format=torch.channels_last):
        lines = images.permute(0, 2, 3, 1).reshape(count, -1).t().contiguous()
        return lines.view(height, width, channels, count).permute(2, 0, 1, 3).contiguous()
    return planes.contiguous()


def from_planes(planes: Tensor) -> Tensor:
    """N × C × H × W images that share the memory of the C × H × W × N tensor ``planes``."""
    return planes.permute(3, 0, 1, 2)


def new_images(like: Tensor, count: int, channels: int, height: int, width: int) -> Tensor:
    """N × C × H × W images innermost, uninitialised, of the type of ``like``.

    Not a view: autograd adds to the gradients of a tensor in place only where nothing else holds their memory.
    """
    return like.new_empty_strided((count, channels, height, width), (1, height * width * count, width * count, count))


def out_of_planes(images: Tensor, layout: torch.memory_format) -> Tensor:
    """``images`` in ``layout``, contiguous or channels last."""
    if not is_planes(images) or images.is_contiguous(memory_format=layout):
        return images.contiguous(memory_format=layout)
    count, channels, height, width = images.shape
    planes = images.permute(1, 2, 3, 0)
    if layout == torch.contiguous_format:
        return planes.reshape(-1, count).t().contiguous().view(images.shape)
    lines = planes.permute(1, 2, 0, 3).reshape(-1, count).t().contiguous()
    return lines.view(count, height, width, channels).permute(0, 3, 1, 2)
