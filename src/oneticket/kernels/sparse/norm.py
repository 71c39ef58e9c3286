"""Batch normalisation of images innermost, in training, with the sum and the ReLU after it."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from oneticket.kernels.sparse.building import NUMBERS
from oneticket.kernels.sparse.layout import as_planes, new_images
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
    images: Tensor, weight: Tensor, bias: Tensor, epsilon: float, *, relu: bool, added: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """N × C × H × W ``images`` normalised by their own mean and variance, and both, the variance divided by N·H·W.

    ``added``, of the images' shape, is added to the result; ``relu`` then makes negative numbers zero. The images lie
    innermost, before and after. Gradients reach images, weight, bias and ``added``. Ioffe & Szegedy 2015, algorithm 1.
    """
    return _Normalise.apply(images, weight, bias, added, epsilon, relu)  # type: ignore[no-any-return, no-untyped-call]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, epsilon: float, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        planes, more = as_planes(images), None if added is None else as_planes(added)
        outputs = new_images(planes, *images.shape)
        mean, scale, variance = (torch.empty_like(weight) for _ in range(3))
        norm = _in_c(weight, bias, mean, scale, variance, planes[0].numel(), epsilon, relu)
        _run("normalise", norm, planes, more, outputs)
        # Where a ReLU after a sum lets pass, only its outputs tell; otherwise the inputs do.
        ctx.save_for_backward(
            planes, outputs if relu and more is not None else None, weight, bias, mean, scale, variance
        )
        ctx.epsilon, ctx.relu, ctx.adds = epsilon, relu, more is not None
        ctx.mark_non_differentiable(mean, variance)
        return outputs, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        planes, outputs, weight, bias, mean, scale, variance = ctx.saved_tensors
        gradients, back = as_planes(gradient), new_images(planes, *gradient.shape)
        passed = None if outputs is None else new_images(planes, *gradient.shape)
        slopes = torch.empty_like(weight), torch.empty_like(bias)
        norm = _in_c(weight, bias, mean, scale, variance, planes[0].numel(), ctx.epsilon, ctx.relu)
        _run("normalise_back", norm, planes, outputs, gradients, back, passed, *slopes)
        of_added = gradient if passed is None else passed
        return back, *slopes, of_added if ctx.adds else None, None, None


def _in_c(
    weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, variance: Tensor, length: int, epsilon: float, relu: bool
) -> CNorm:
    places = (tensor.data_ptr() for tensor in (weight, bias, mean, scale, variance))
    return CNorm(*places, length, epsilon, int(relu))


def _run(kernel: str, norm: CNorm, planes: Tensor, *tensors: Tensor | None) -> None:
    divided(kernel, NUMBERS[planes.dtype], (norm, planes, *tensors), len(planes), planes.numel())
