"""Binary inputs: layers that see the signs of their inputs (XNOR-Net, Rastegari et al. 2016, §3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.errors import InputError
from oneticket.kernels.pointwise import PointwiseConv2d


def binarisable(layer: nn.Module | None) -> bool:
    """Whether ``layer`` can be binary: linear, or a 2-D convolution of one group with a fixed zero padding."""
    # Exact types: a subclass may use its weight without running as a layer, as attention's output projection does.
    if isinstance(layer, nn.Conv2d) and type(layer) in (nn.Conv2d, PointwiseConv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


@dataclass(frozen=True)
class Window:
    """How a convolution walks over a map: (height, width) of its kernel, stride, padding and dilation."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, layer: nn.Module) -> Window | None:
        """The window of a convolution with a numeric padding; None for a linear layer."""
        if not isinstance(layer, nn.Conv2d):
            return None
        return cls(layer.kernel_size, layer.stride, tuple(int(side) for side in layer.padding), layer.dilation)


def normalised_inputs(inputs: Tensor, window: Window | None) -> Tensor:
    """``inputs`` with mean 0 and variance 1 over each sample: features of a row, or channels and pixels of a map.

    The paper normalises over the batch before the sign. Normalising over the sample needs no statistics, so only the
    weights have to be stored. Without normalisation a layer after a ReLU would see only +1.
    """
    return F.layer_norm(inputs, inputs.shape[-1:] if window is None else inputs.shape[-3:])


def input_scales(inputs: Tensor, window: Window | None) -> Tensor:
    """K of XNOR-Net for normalised ``inputs``, one for each sub-tensor that a filter sees (§3.2).

    For rows, mean |input|, of shape (…, 1); for maps, the mean of |input| over channels, box-filtered over the windows
    of the convolution, of shape (batch, 1, h, w) with the height and width of the output.
    """
    if window is None:
        return inputs.abs().mean(-1, keepdim=True)
    box = inputs.new_full((1, 1, *window.size), 1 / (window.size[0] * window.size[1]))
    return F.conv2d(inputs.abs().mean(-3, keepdim=True), box, None, window.stride, window.padding, window.dilation)


class Sign(torch.autograd.Function):
    """sign(x) with sign(0) = +1; the gradient passes where |x| ≤ 1 and is zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """±1, of the shape of ``x``."""
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """g · 1{|x| ≤ 1}."""
        (x,) = ctx.saved_tensors
        passed: Tensor = gradient * (x.abs() <= 1)
        return passed


class BinaryInputs:
    """The hooks that make a layer see signs: y = K · (layer(sign(x̂)) − b) + b, x̂ the normalised inputs.

    K counts as a constant in the backward pass. Nothing is stored, so copies and pickles of a network keep working.
    """

    def __init__(self) -> None:
        self._scales = torch.ones(())

    def attach(self, layer: nn.Module) -> None:
        """Put the hooks on ``layer``."""
        layer.register_forward_pre_hook(self.before)
        layer.register_forward_hook(self.after)

    def before(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Return the signs, and keep K for the output."""
        window = Window.of(layer)
        inputs = normalised_inputs(arguments[0], window)
        self._scales = input_scales(inputs.detach(), window)
        signs: Tensor = Sign.apply(inputs)  # type: ignore[no-untyped-call]
        return (signs,)

    def after(self, layer: nn.Linear | nn.Conv2d, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the scaled output."""
        factor, self._scales = self._scales, torch.ones(())
        if layer.bias is None:
            return output * factor
        bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias[:, None, None]
        return (output - bias) * factor + bias


def binarise_inputs(model: nn.Module, weights: Iterable[str]) -> None:
    """Make the layers of these weights (``"features.conv2.weight"``) see the signs of their inputs, as ``xnor`` does.

    Use it for a network built anew from stored weights; layers that see signs already do not change. Raises InputError
    for a layer that cannot have binary inputs.
    """
    seeing, layers = set(binary_inputs(model)), dict(model.named_modules())
    for name in weights:
        layer = name.rpartition(".")[0]
        if not binarisable(layers.get(layer)):
            raise InputError(f"the inputs of '{layer}' can't be binary", expected="a linear layer or a 2-D convolution")
        if layer not in seeing:
            BinaryInputs().attach(layers[layer])


def binary_inputs(model: nn.Module) -> list[str]:
    """Names of the layers that see signs."""
    return [
        name
        for name, module in model.named_modules()
        if any(isinstance(getattr(hook, "__self__", None), BinaryInputs) for hook in module._forward_pre_hooks.values())
    ]
