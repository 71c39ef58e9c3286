"""Strided 1 × 1 convolutions of few channels that avoid a kernel of oneDNN whose gradients are wrong.

For images in channels-last layout, the backward pass of the weights first copies the pixels that the stride meets to a
workspace. It places them a whole vector block apart, although the workspace has room for the actual channels only:
with fewer channels than a block it writes past the end (oneDNN issue 6035; seen in torch 2.13 with one thread under
AVX2, and with two under AVX-512 as well). Transposed convolutions run the same kernel, inputs and outputs exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW = 16
"""Floats in the widest vector block: with this many channels the kernel is right; under AVX2 8 are enough."""


def is_faulty(
    channels: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], groups: int = 1
) -> bool:
    """Whether a convolution runs the faulty kernel; ``channels`` are its inputs, or outputs if it is transposed."""
    pointwise = groups == 1 and not any(padding) and all(side == 1 for side in kernel)
    return pointwise and channels < NARROW and any(step != 1 for step in stride)


class PointwiseConv2d(nn.Conv2d):
    """A 1 × 1 convolution that first selects the pixels which its stride meets, and is then one of stride 1.

    Values, gradients and state are those of ``nn.Conv2d``. Only narrow layers that learn, on the CPU and in another
    layout than plain (NCHW), are computed so.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self.stride
        if _learns_in_another_layout(input, weight) and input.shape[-2] % rows == 0 and input.shape[-1] % columns == 0:
            met = input[..., ::rows, ::columns].contiguous(memory_format=torch.channels_last)
            return F.conv2d(met, weight, bias)
        outputs: Tensor = super()._conv_forward(input, weight, bias)
        return outputs


class PointwiseConvTranspose2d(nn.ConvTranspose2d):
    """A transposed 1 × 1 convolution that is computed in plain layout, which has another kernel."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The result of ``nn.ConvTranspose2d``."""
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
    """Whether ``layer`` is one of the two classes here, which compute right gradients."""
    return type(layer) in _RIGHT.values()


_RIGHT: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: PointwiseConv2d,
    nn.ConvTranspose2d: PointwiseConvTranspose2d,
}


@contextmanager
def right_gradients(model: nn.Module) -> Iterator[None]:
    """A context in which narrow strided 1 × 1 convolutions of ``model``, and of copies of it, have right gradients.

    Modules stay the same objects with the same state; on exit they get their own type back.
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
    """Whether a layer is a convolution that runs the faulty kernel."""
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
    """Whether a tensor is in plain layout; ``is_contiguous`` is also True for 1 × 1 pixels in channels-last layout."""
    step, strides = 1, []
    for size in reversed(tensor.shape):
        strides.append(step)
        step *= size
    return tensor.stride() == tuple(reversed(strides))


def as_plain(tensor: Tensor) -> Tensor:
    """``tensor`` in plain layout."""
    return tensor if is_plain(tensor) else tensor.to(memory_format=torch.contiguous_format)
