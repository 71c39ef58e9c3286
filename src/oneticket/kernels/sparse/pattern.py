"""Where the kept weights of a layer read and write: the lists that the kernels in C walk along."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int32]
Pair = tuple[int, int]
Reads = list[tuple[int, int]]
"""What one coordinate of a target meets: positions of the kernel, and coordinates of the source."""

CACHED = 1 << 18
"""Numbers of the input that one block of lines may hold, so that they stay in a core's second cache (1 MiB)."""


class Geometry(NamedTuple):
    """Kernel, stride, padding and the size of the input's images, each (lines, columns)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    size: Pair

    @property
    def outputs(self) -> Pair:
        """The size of the output's images."""
        down, across = ((self.size[d] + 2 * self.padding[d] - self.kernel[d]) // self.stride[d] + 1 for d in (0, 1))
        return down, across

    def forward(self, dim: int) -> list[Reads]:
        """For each coordinate of the output: kernel positions and coordinates of the input."""
        begins = [o * self.stride[dim] - self.padding[dim] for o in range(self.outputs[dim])]
        return [[(k, b + k) for k in range(self.kernel[dim]) if 0 <= b + k < self.size[dim]] for b in begins]

    def backward(self, dim: int) -> list[Reads]:
        """For each coordinate of the input: kernel positions and coordinates of the output."""
        reads: list[Reads] = [[] for _ in range(self.size[dim])]
        for o, met in enumerate(self.forward(dim)):
            for k, i in met:
                reads[i].append((k, o))
        return reads


class CLists(ctypes.Structure):
    """``struct lists`` of gather.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("starts", "offsets", "indices", "kinds", "bases", "places")),
        *((name, ctypes.c_long) for name in ("channels", "plane", "images")),
    ]


class CLayer(ctypes.Structure):
    """``struct layer`` of slopes.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("starts", "inputs", "slots", "reach")),
        *((name, ctypes.c_long) for name in ("positions", "outputs", "down", "across")),
        *((name, ctypes.c_long) for name in ("lines_in", "columns_in", "lines", "columns", "images", "block")),
    ]


@dataclass(frozen=True)
class Lists:
    """The arrays of a :class:`CLists`; ``count`` is the number of positions of the target."""

    starts: Ints
    offsets: Ints
    indices: Ints
    kinds: Ints
    bases: Ints
    places: Ints
    channels: int
    count: int

    def in_c(self, images: int) -> CLists:
        """The structure for a batch; the arrays must outlive it."""
        arrays = (self.starts, self.offsets, self.indices, self.kinds, self.bases, self.places)
        return CLists(*(array.ctypes.data for array in arrays), self.channels, self.count, images)


class Pattern:
    """The kept weights of a layer on inputs of one size.

    Parameters
    ----------
    mask : boolean, outputs × inputs × kernel lines × kernel columns. Values are in the order of its flattened form.
    geometry : kernel, stride, padding and size.
    """

    def __init__(self, mask: Tensor, geometry: Geometry) -> None:
        self.geometry, self.shape = geometry, tuple(mask.shape)
        self._kept = [part.numpy().astype(np.int32) for part in mask.nonzero(as_tuple=True)]
        self.count = len(self._kept[0])

    @property
    def bytes(self) -> int:
        """Bytes of the lists that have been needed so far."""
        lists = [vars(self).get("forward"), vars(self).get("backward")]
        arrays = [a for part in lists if part is not None for a in vars(part).values() if isinstance(a, np.ndarray)]
        return sum(array.nbytes for array in (*self._kept, *arrays, *vars(self).get("_by_position", ())))

    @cached_property
    def forward(self) -> Lists:
        """The lists of the outputs."""
        out, into, line, column = self._kept
        reads = [self.geometry.forward(dim) for dim in (0, 1)]
        order = np.arange(self.count, dtype=np.int32)
        return _lists(out, into, line, column, order, reads, self.shape[0], self.geometry.size)

    @cached_property
    def backward(self) -> Lists:
        """The lists of the gradient of the inputs."""
        out, into, line, column = self._kept
        reads = [self.geometry.backward(dim) for dim in (0, 1)]
        order = np.argsort(into, kind="stable").astype(np.int32)  # outputs ascend within an input
        turned = (into[order], out[order], line[order], column[order])
        return _lists(*turned, order, reads, self.shape[1], self.geometry.outputs)

    @cached_property
    def before(self) -> NDArray[np.int64]:
        """The number of kept weights before each output, and in all."""
        return np.bincount(self._kept[0] + 1, minlength=self.shape[0] + 1).cumsum()

    @cached_property
    def _by_position(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Starts, inputs and slots by kernel position and output; the reach of each position."""
        out, into, line, column = self._kept
        (lines, columns), outputs = self.geometry.kernel, self.shape[0]
        group = (line * columns + column).astype(np.int64) * outputs + out
        order = np.argsort(group, kind="stable").astype(np.int32)
        counts = np.bincount(group, minlength=lines * columns * outputs).reshape(-1, outputs)
        ends = counts.cumsum().reshape(counts.shape)
        starts = np.concatenate([(ends[:, :1] - counts[:, :1]), ends], axis=1).astype(np.int32)
        reach = [_reach(self.geometry, i, j) for i in range(lines) for j in range(columns)]
        return np.ascontiguousarray(starts), into[order], order, np.array(reach, dtype=np.int32)

    def slopes_in_c(self, images: int) -> CLayer:
        """The structure for a batch; the pattern must outlive it."""
        g = self.geometry
        line = self.shape[1] * g.size[1] * g.stride[0] * images
        block = max(1, CACHED // max(1, line))
        arrays = (array.ctypes.data for array in self._by_position)
        positions = g.kernel[0] * g.kernel[1]
        return CLayer(*arrays, positions, self.shape[0], *g.stride, *g.size, *g.outputs, images, block)


def _reach(geometry: Geometry, line: int, column: int) -> list[int]:
    """``struct reach`` of a kernel position: top, bottom, left, right, line, column."""
    ranges = []
    for dim, k in ((0, line), (1, column)):
        met = [o for o, reads in enumerate(geometry.forward(dim)) if any(k == position for position, _ in reads)]
        ranges += [met[0], met[-1] + 1] if met else [0, 0]
    return [*ranges, line - geometry.padding[0], column - geometry.padding[1]]


def _lists(
    target: Ints, source: Ints, line: Ints, column: Ints, index: Ints, reads: Sequence[list[Reads]], channels: int,
    size: Pair,
) -> Lists:  # fmt: skip
    """The lists of kept weights from ``source`` to ``target``, sorted by target, on a source of ``size``."""
    (kinds_down, of_line, base_line), (kinds_across, of_column, base_column) = map(_kinds, reads)
    starts, offsets, indices = [], [], []
    begun = 0
    for down in kinds_down:
        for across in kinds_across:
            lines, columns = _table(down, line), _table(across, column)
            meets = (lines != _NONE) & (columns != _NONE)
            where = source[meets] * (size[0] * size[1]) + lines[meets] * size[1] + columns[meets]
            counts = np.bincount(target[meets], minlength=channels)
            starts.append(begun + np.concatenate([[0], counts.cumsum()]))
            offsets.append(where)
            indices.append(index[meets])
            begun += len(where)
    kinds = (of_line[:, None] * len(kinds_across) + of_column[None, :]).ravel()
    bases = (base_line[:, None] * size[1] + base_column[None, :]).ravel()
    places = np.argsort(kinds, kind="stable")
    lists = [np.concatenate(parts) for parts in (starts, offsets, indices)]
    six = (*lists, kinds[places], bases[places], places)
    arrays = (np.ascontiguousarray(part, dtype=np.int32) for part in six)
    return Lists(*arrays, channels=channels, count=len(kinds))  # type: ignore[misc, arg-type]


_NONE = np.iinfo(np.int32).max


def _kinds(reads: list[Reads]) -> tuple[list[Reads], Ints, Ints]:
    """The different relative reads of coordinates; the kind of each coordinate, and the first one that it reads."""
    bases = [min((source for _, source in met), default=0) for met in reads]
    relative = [tuple((k, source - base) for k, source in met) for met, base in zip(reads, bases, strict=True)]
    different = sorted(set(relative))
    kinds = [different.index(one) for one in relative]
    return [list(one) for one in different], np.array(kinds, dtype=np.int32), np.array(bases, dtype=np.int32)


def _table(reads: Reads, positions: Ints) -> Ints:
    """For each weight, the coordinate that it reads from a base; _NONE where it reads nothing."""
    table = np.full(max([int(positions.max(initial=0)), *(k for k, _ in reads)], default=0) + 1, _NONE, dtype=np.int32)
    for k, source in reads:
        table[k] = source
    return table[positions]


def geometry_of(layer: torch.nn.Conv2d, size: Pair) -> Geometry | None:
    """The geometry of a convolution; None where the kernels do not compute it: groups, dilation, other borders."""
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        return None
    padding = layer.padding
    if isinstance(padding, str):
        if padding == "same" and any(side % 2 == 0 for side in layer.kernel_size):
            return None
        padding = (layer.kernel_size[0] // 2, layer.kernel_size[1] // 2) if padding == "same" else (0, 0)
    kernel, stride = (layer.kernel_size[0], layer.kernel_size[1]), (layer.stride[0], layer.stride[1])
    found = Geometry(kernel, stride, (padding[0], padding[1]), size)
    return found if min(found.outputs) > 0 else None
