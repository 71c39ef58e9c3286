"""The sparse kernels in autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from oneticket.kernels.sparse.building import NUMBERS
from oneticket.kernels.sparse.layout import as_planes, new_images
from oneticket.kernels.sparse.pattern import Lists, Pattern
from oneticket.kernels.sparse.threads import divided


def sparse_product(images: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
    """The convolution of N × C × H × W ``images`` with the kept weights ``values``; images innermost in memory.

    Gradients reach ``images`` and ``values``. Both are float32, or both float64.
    """
    return SparseProduct.apply(images, values, pattern)  # type: ignore[no-any-return, no-untyped-call]


class SparseProduct(torch.autograd.Function):
    """See :func:`sparse_product`."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
        planes = as_planes(images)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(planes, values)
            ctx.pattern = pattern
        return _gathered(pattern.forward, planes, values, pattern.geometry.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        planes, values = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        gradients, inputs, slopes = as_planes(gradient), None, None
        if ctx.needs_input_grad[0]:
            inputs = _gathered(pattern.backward, gradients, values, pattern.geometry.size)
        if ctx.needs_input_grad[1]:
            slopes = _slopes(pattern, planes, gradients)
        return inputs, slopes, None


def _gathered(lists: Lists, source: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    images = source.shape[-1]
    target = new_images(source, images, lists.channels, *size)
    arguments = (lists.in_c(images), source, target, values.contiguous())
    divided("gather", NUMBERS[source.dtype], arguments, lists.count, len(values) * lists.count * images)
    return target


def _slopes(pattern: Pattern, inputs: Tensor, gradients: Tensor) -> Tensor:
    images = inputs.shape[-1]
    result = inputs.new_zeros(pattern.count)
    arguments = (pattern.slopes_in_c(images), inputs, gradients, result)
    work = pattern.count * pattern.forward.count * images
    divided("slopes", NUMBERS[inputs.dtype], arguments, pattern.shape[0], work, pattern.before)
    return result
