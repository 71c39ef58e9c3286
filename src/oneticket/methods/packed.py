"""Prediction with packed bits: XNOR and popcount in place of the products of a network that ``xnor`` has trained.

64 weights or inputs share a word, and a product of signs over n of them is n − 2 · popcount(a XOR b). NumPy counts the
bits, so no compiler is needed. The first layer, the head, normalisation and pooling stay unchanged.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.methods.binary_inputs import Window, binary_inputs, input_scales, normalised_inputs

Words = NDArray[np.uint64]
Integers = NDArray[np.int32]

_COUNTED_AT_ONCE = 1 << 18  # words: 2 MB, about what a second-level cache holds
_UNFOLDED_AT_ONCE = 1 << 24  # bytes of receptive fields
_UNITS = (np.uint8, np.uint16, np.uint32, np.uint64)  # the bits of one pixel are packed into one of these


class Predictor(nn.Module):
    """A network whose binary layers compute with packed bits; on the CPU, in evaluation mode, without gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, …) → logits (batch, classes)."""
        return self.network(inputs)  # type: ignore[no-any-return]

    @property
    def bytes(self) -> int:
        """Bytes held: packed signs with their unused bits, scales, and all tensors that are not binary."""
        tensors = [*self.parameters(), *(b for b in self.buffers() if b.is_floating_point())]
        layers = [m.signs for m in self.modules() if isinstance(m, PackedLinear | PackedConv2d)]
        return sum(t.nbytes for t in tensors) + sum(signs.bytes for signs in layers)


def pack(model: nn.Module) -> Predictor:
    """A packed copy of ``model``: every binary layer gives the same integers, so the logits are equal up to rounding.

    ``model`` is a network, dense or masked, that ``xnor`` has trained. Raises InputError if no layer has binary inputs,
    or if a layer has binary inputs and real weights.
    """
    names = binary_inputs(model)
    if not names:
        raise InputError(
            f"no layer of {type(model).__name__} has binary inputs", expected="a network that 'xnor' has trained"
        )
    network = copy.deepcopy(model).cpu()
    for name in names:
        layer: Any = network.get_submodule(name)
        window = Window.of(layer)
        try:
            packed = PackedLinear(layer) if window is None else PackedConv2d(layer, window)
        except InputError as error:
            raise error.at(f"layer '{name}'") from None
        network.set_submodule(name, packed)
    return Predictor(network)


class PackedSigns:
    """The signs of a layer's weights, the mask of the kept ones, and α of each filter.

    ``weight`` has the shape (outputs, positions, channels) and one magnitude per filter, or 0 where masked.
    """

    def __init__(self, weight: Tensor) -> None:
        filters = weight.detach().flatten(1)
        self.alpha = filters.abs().amax(1)
        if not bool(((filters == 0) | (filters.abs() == self.alpha[:, None])).all()):
            raise InputError("its weights are real", expected="one magnitude per filter, as 'xnor' makes them")
        kept = weight.detach().numpy() != 0
        self.lengths: Integers = kept.sum((1, 2), dtype=np.int32)
        self.signs = in_columns(in_units(weight.detach().numpy() > 0))
        self.kept = None if kept.all() else in_columns(in_units(kept))

    @property
    def bytes(self) -> int:
        """Bytes of signs, masks, lengths and scales."""
        masks = 0 if self.kept is None else self.kept.nbytes
        return int(self.signs.nbytes + masks + self.lengths.nbytes + self.alpha.nbytes)

    def products(self, inputs: Words) -> Integers:
        """Σ sign(input) · sign(weight) over the kept weights: (words, rows) → (outputs, rows)."""
        words, rows = inputs.shape
        outputs = len(self.lengths)
        at_once = max(1, _COUNTED_AT_ONCE // (words * outputs))
        result = np.empty((outputs, rows), np.int32)
        for start in range(0, rows, at_once):
            stop = start + at_once
            different = self.signs[:, :, None] ^ inputs[:, None, start:stop]
            if self.kept is not None:
                different &= self.kept[:, :, None]
            popcount(different).sum(0, dtype=np.int32, out=result[:, start:stop])
        result *= -2
        result += self.lengths[:, None]
        return result


class PackedLinear(nn.Module):
    """A linear layer that sees the signs of its normalised inputs."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.signs = PackedSigns(layer.weight[:, None])
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs)."""
        centred = normalised_inputs(inputs, None)
        rows = in_units((centred >= 0).flatten(0, -2).numpy())
        products = torch.from_numpy(self.signs.products(in_columns(rows)).T)
        outputs: Tensor = (products * self.signs.alpha).reshape(*inputs.shape[:-1], -1) * input_scales(centred, None)
        return outputs if self.bias is None else outputs + self.bias


class PackedConv2d(nn.Module):
    """A convolution of one group that sees the signs of its normalised inputs; a padded pixel counts as 0."""

    def __init__(self, layer: nn.Conv2d, window: Window) -> None:
        super().__init__()
        self.window = window
        self.signs = PackedSigns(layer.weight.flatten(2).transpose(1, 2))
        self.bias = layer.bias
        self._border: tuple[tuple[int, ...], Integers] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, channels, h, w) → (batch, outputs, h', w')."""
        centred = normalised_inputs(inputs, self.window)
        products = self.products((centred >= 0).permute(0, 2, 3, 1).contiguous().numpy())
        outputs = torch.from_numpy(products) * self.signs.alpha[:, None, None] * input_scales(centred, self.window)
        return outputs if self.bias is None else outputs + self.bias[:, None, None]

    def products(self, signs: NDArray[np.bool_]) -> Integers:
        """Σ sign(input) · sign(weight) by receptive field: (batch, h, w, channels) → (batch, outputs, h', w')."""
        if any(self.window.padding) and (self._border is None or self._border[0] != signs.shape[1:]):
            # In the padding, bits stand for −1 instead of 0. Two maps, all +1 and all −1, give the error: values inside
            # cancel, values in the padding do not.
            ones = np.ones((1, *signs.shape[1:]), np.bool_)
            self._border = signs.shape[1:], (self._counted(ones) + self._counted(~ones)) // 2
        products = self._counted(signs)
        return products if self._border is None else products - self._border[1]

    def _counted(self, signs: NDArray[np.bool_]) -> Integers:
        """Like :meth:`products`, but a padded pixel counts as −1."""
        units = in_units(signs)
        (top, left), taps = self.window.padding, self.window.size[0] * self.window.size[1]
        units = np.pad(units, ((0, 0), (top, top), (left, left), (0, 0)))
        height, width = (
            (side - dilation * (size - 1) - 1) // stride + 1
            for side, size, stride, dilation in zip(
                units.shape[1:3], self.window.size, self.window.stride, self.window.dilation, strict=True
            )
        )
        at_once = max(1, _UNFOLDED_AT_ONCE // (height * width * taps * units.shape[3] * units.itemsize))
        result = np.empty((len(signs), len(self.signs.lengths), height, width), np.int32)
        for start in range(0, len(signs), at_once):
            fields = self._fields(units[start : start + at_once], height, width)
            products = self.signs.products(in_columns(fields))
            part = result[start : start + at_once]
            part[:] = products.reshape(-1, len(part), height, width).swapaxes(0, 1)
        return result

    def _fields(self, units: NDArray[Any], height: int, width: int) -> NDArray[Any]:
        """The receptive fields, one per row: (batch, h, w, units) → (batch · h' · w', positions · units)."""
        (down, right), (y, x) = self.window.stride, self.window.dilation
        rows, columns = self.window.size
        fields = np.empty((len(units), height, width, rows * columns, units.shape[3]), units.dtype)
        for i in range(rows):
            for j in range(columns):
                seen = units[:, i * y : i * y + down * height : down, j * x : j * x + right * width : right]
                fields[:, :, :, i * columns + j] = seen
        return fields.reshape(len(units) * height * width, -1)


def in_units(signs: NDArray[np.bool_]) -> NDArray[Any]:
    """Bits along the last axis packed into the smallest units that hold them, 64 bits at most; unused bits are 0."""
    octets = np.packbits(signs, axis=-1)
    unit = next((u for u in _UNITS if u().nbytes >= octets.shape[-1]), np.uint64)
    return _padded(octets, unit().nbytes).view(unit)


def in_columns(units: NDArray[Any]) -> Words:
    """(rows, …) of units → (words, rows): the words of a row form a column; unused bits are 0."""
    octets = np.ascontiguousarray(units).reshape(len(units), math.prod(units.shape[1:])).view(np.uint8)
    return np.ascontiguousarray(_padded(octets, 8).view(np.uint64).T)


def popcount(words: Words) -> NDArray[np.uint8]:
    """Number of ones in each word."""
    return np.bitwise_count(words) if hasattr(np, "bitwise_count") else popcount_by_table(words)


def popcount_by_table(words: Words) -> NDArray[np.uint8]:
    """:func:`popcount` for NumPy 1, by a table for 16 bits at a time."""
    quarters = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    ones: NDArray[np.uint8] = _ones()[quarters].sum(-1, dtype=np.uint8)
    return ones


@cache
def _ones() -> NDArray[np.uint8]:
    numbers = np.arange(1 << 16, dtype=np.uint16)
    ones: NDArray[np.uint8] = np.unpackbits(numbers.view(np.uint8)).reshape(-1, 16).sum(1, dtype=np.uint8)
    return ones


def _padded(octets: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    missing = -octets.shape[-1] % multiple
    return np.pad(octets, [(0, 0)] * (octets.ndim - 1) + [(0, missing)]) if missing else octets
