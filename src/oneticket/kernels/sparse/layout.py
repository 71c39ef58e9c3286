"""Images innermost: the memory layout of the sparse kernels, as strides of an ordinary tensor N × C × H × W."""

from __future__ import annotations

from torch import Tensor


def is_planes(images: Tensor) -> bool:
    """Whether N × C × H × W ``images`` lie in memory as C × H × W × N."""
    return images.dim() == 4 and images.permute(1, 2, 3, 0).is_contiguous()


def as_planes(images: Tensor) -> Tensor:
    """The C × H × W × N tensor of N × C × H × W ``images``, contiguous; copied only if they lie otherwise."""
    return images.permute(1, 2, 3, 0).contiguous()


def from_planes(planes: Tensor) -> Tensor:
    """N × C × H × W images that share the memory of the C × H × W × N tensor ``planes``."""
    return planes.permute(3, 0, 1, 2)
