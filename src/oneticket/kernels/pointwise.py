"""Strided 1 × 1 convolutions of few channels, kept out of a kernel of oneDNN that computes wrong gradients.

The backward pass of their weights, images lying channels last, first copies the pixels that the stride meets to a
workspace, at the distance of a whole vector block although it has room for the channels that there are: fewer than a
block, and it writes past its end (oneDNN issue 6035; seen in torch 2.13 with one thread under AVX2, and with two under
AVX-512 as well). Transposed convolutions go through the same kernel with inputs and outputs exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW = 16
"""Floats in the widest vector block: the kernel is right from so many channels on, under AVX2 from 8 on already."""


def is_faulty(
    channels: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], groups: int = 1
) -> bool:
    """Whether a convolution meets the faulty kernel; ``channels`` are its inputs, of a transposed one its outputs."""
    pointwise = groups == 1 and not any(padding) and all(side == 1 for side in kernel)
    return pointwise and channels < NARROW and any(step != 1 for step in stride)


class PointwiseConv2d(nn.Conv2d):
    """A 1 × 1 convolution that computes its gradient by the pixels which its stride meets, as one of stride 1.

    Values, gradients and state are those of ``nn.Conv2d``. Only narrow ones that learn, on the CPU and not in plain
    layout (NCHW), take this way.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self.stride
        if _learns_in_another_layout(input, weight) and input.shape[-2] % rows == 0 and input.shape[-1] % columns == 0:
            met = input[..., ::rows, ::columns].contiguous(memory_format=torch.channels_last)
            return F.conv2d(met, weight, bias)
        outputs: Tensor = super()._conv_forward(input, weight, bias)
        return outputs


class PointwiseConvTranspose2d(nn.ConvTranspose2d):
    """A transposed 1 × 1 convolution that is computed in plain layout, where another kernel is used."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As ``nn.ConvTranspose2d`` gives it."""
        if self.weight.requires_grad and torch.is_grad_enabled() and input.device.type == "cpu":
            over = self._output_padding(
                input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation  # type: ignore[arg-type]
            )  # fmt: skip
            images, weight = as_plain(input), as_plain(self.weight)
            return F.conv_transpose2d(
                images, weight, self.bias, self.stride, self.padding, over, self.groups, self.dilation  # type: ignore[arg-type]
            )  # fmt: skip
        return super().forward(input, output_size)


def is_pointwise(layer: nn.Module | None) -> bool:
    """Whether ``layer`` computes its gradient rightly where others of its numbers don't."""
    return type(layer) in _RIGHT.values()


_RIGHT: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: PointwiseConv2d,
    nn.ConvTranspose2d: PointwiseConvTranspose2d,
}


@contextmanager
def right_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, narrow strided 1 × 1 convolutions of ``model``, and of copies that are made of it, learn rightly.

    Modules stay the same objects with the same state; afterwards they are of the type that they were of.
    """
    swapped = [(module, type(module)) for module in model.modules() if type(module) in _RIGHT and meets_fault(module)]
    for module, kind in swapped:
        module.__class__ = _RIGHT[kind]
    try:
        yield
    finally:
        for module, kind in swapped:
            module.__class__ = kind


def meets_fault(module: nn.Module) -> bool:
    """Whether the numbers of a layer are those of the faulty kernel."""
    if isinstance(module, nn.Conv2d) and not isinstance(module.padding, str):
        return is_faulty(module.in_channels, module.kernel_size, module.stride, module.padding, module.groups)
    if isinstance(module, nn.ConvTranspose2d):
        padding = [int(side) for side in module.padding]
        return is_faulty(module.out_channels, module.kernel_size, module.stride, padding, module.groups)
    return False


def _learns_in_another_layout(input: Tensor, weight: Tensor) -> bool:
    narrow = weight.shape[1] < NARROW and input.dim() == 4 and input.device.type == "cpu"
    return narrow and torch.is_grad_enabled() and weight.requires_grad and not (is_plain(input) and is_plain(weight))


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor lies row by row, which ``is_contiguous`` says of 1 × 1 pixels that lie channels last, too."""
    step, strides = 1, []
    for size in reversed(tensor.shape):
        strides.append(step)
        step *= size
    return tensor.stride() == tuple(reversed(strides))


def as_plain(tensor: Tensor) -> Tensor:
    """``tensor``, row by row."""
    return tensor if is_plain(tensor) else tensor.to(memory_format=torch.contiguous_format)
