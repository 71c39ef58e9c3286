"""Batch normalisation of images innermost, in training, with the ReLU after it."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from oneticket.kernels.sparse.building import NUMBERS, library
from oneticket.kernels.sparse.layout import as_planes, from_planes
from oneticket.kernels.sparse.threads import divided


class CNorm(ctypes.Structure):
    """``struct norm`` of norm.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "mean", "scale", "variance")),
        ("length", ctypes.c_long),
        ("epsilon", ctypes.c_double),
        ("relu", ctypes.c_long),
    ]


def normalised(
    images: Tensor, weight: Tensor, bias: Tensor, epsilon: float, *, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """N × C × H × W ``images`` normalised by their own mean and variance, and both, the variance divided by N·H·W.

    The images lie innermost, before and after; ``relu`` makes negative results zero. Gradients reach images, weight and
    bias. Ioffe & Szegedy 2015, algorithm 1.
    """
    return _Normalise.apply(images, weight, bias, epsilon, relu)  # type: ignore[no-any-return, no-untyped-call]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, epsilon: float, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        planes = as_planes(images)
        outputs = torch.empty_like(planes)
        mean, scale, variance = (torch.empty_like(weight) for _ in range(3))
        length = planes[0].numel()
        norm = _in_c(weight, bias, mean, scale, variance, length, epsilon, relu)
        kernel = library(NUMBERS[planes.dtype]).normalise
        where = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (planes, outputs)]
        _run(kernel, norm, where, planes)
        ctx.save_for_backward(planes, outputs, weight, bias, mean, scale, variance)
        ctx.epsilon, ctx.relu = epsilon, relu
        ctx.mark_non_differentiable(mean, variance)
        return from_planes(outputs), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        planes, outputs, weight, bias, mean, scale, variance = ctx.saved_tensors
        gradients, back = as_planes(gradient), torch.empty_like(planes)
        slopes = torch.empty_like(weight), torch.empty_like(bias)
        norm = _in_c(weight, bias, mean, scale, variance, planes[0].numel(), ctx.epsilon, ctx.relu)
        kernel = library(NUMBERS[planes.dtype]).normalise_back
        tensors = (planes, outputs, gradients, back, *slopes)
        _run(kernel, norm, [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors], planes)
        return from_planes(back), *slopes, None, None


def _in_c(
    weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, variance: Tensor, length: int, epsilon: float, relu: bool
) -> CNorm:
    places = (tensor.data_ptr() for tensor in (weight, bias, mean, scale, variance))
    return CNorm(*places, length, epsilon, int(relu))


def _run(kernel: Any, norm: CNorm, where: list[ctypes.c_void_p], planes: Tensor) -> None:
    def part(first: int, last: int) -> None:
        kernel(ctypes.byref(norm), *where, ctypes.c_long(first), ctypes.c_long(last))

    divided(part, len(planes), planes.numel())
