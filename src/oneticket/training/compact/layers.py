"""Convolutions and linear layers that hold only their kept weights, and compute with these alone.

A dense kernel also multiplies with masked weights. These layers multiply compressed sparse rows (CSR) with dense
matrices, using PyTorch's kernels; in training, gradients are computed only at kept weights. They pay if few weights are
left: :mod:`oneticket.training.compact.sparse` decides.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Key = tuple[tuple[int, ...], int, torch.dtype]


class Room:
    """Matrices that layers of one network borrow in turn, so that no step requests new memory from the system."""

    def __init__(self) -> None:
        self._free: dict[Key, list[Tensor]] = {}

    def take(self, grid: tuple[int, ...], width: int, dtype: torch.dtype) -> Tensor:
        """A matrix of ``grid[0]`` rows: zero if new, otherwise with the values of its last user."""
        free = self._free.get((grid, width, dtype))
        if free:
            return free.pop()
        with torch.inference_mode(False):  # a matrix made during evaluation is also lent to training
            return torch.zeros(grid[0], width, dtype=dtype)

    def give(self, grid: tuple[int, ...], matrix: Tensor) -> None:
        """Return a matrix that :meth:`take` lent for ``grid``."""
        self._free.setdefault((grid, matrix.shape[1], matrix.dtype), []).append(matrix)

    def __deepcopy__(self, memo: dict[int, Any]) -> Room:
        return Room()


class Pattern:
    """Positions of the kept entries of a matrix (outputs × inputs), by row and then by column, and of its transpose."""

    def __init__(self, mask: Tensor) -> None:
        _hear_the_warning()
        rows, columns = mask.nonzero(as_tuple=True)
        self.shape, self.count = (mask.shape[0], mask.shape[1]), len(rows)
        self._starts, self._columns = _starts(rows, self.shape[0]), columns
        self._turned = torch.argsort(columns, stable=True)  # rows ascend within a column already
        self._starts_turned, self._rows_turned = _starts(columns, self.shape[1]), rows[self._turned]

    def matrix(self, values: Tensor) -> Tensor:
        """The sparse matrix of these values."""
        return torch.sparse_csr_tensor(self._starts, self._columns, values, self.shape, check_invariants=False)

    def transposed(self, values: Tensor) -> Tensor:
        """Its transpose."""
        values, shape = values[self._turned], self.shape[::-1]
        return torch.sparse_csr_tensor(self._starts_turned, self._rows_turned, values, shape, check_invariants=False)

    def gradient(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """⟨row of ``outputs``, row of ``inputs``⟩ for each kept entry: the gradient of its value."""
        zeros = self.matrix(outputs.new_zeros(self.count))
        if not self.count:
            return zeros.values()
        slopes: Tensor = torch.sparse.sampled_addmm(zeros, outputs, inputs.t())
        return slopes.values()


@cache
def _hear_the_warning() -> None:
    # PyTorch warns once in each process that CSR tensors are in beta; users did not ask for one, so hide the warning.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()


def _starts(lines: Tensor, count: int) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(lines, minlength=count).cumsum(0)])


class SparseLinear(nn.Module):
    """A linear layer of the weights that ``mask`` (outputs × inputs) keeps; ``weight`` is 1-D, in row-major order."""

    def __init__(self, layer: nn.Linear, mask: Tensor) -> None:
        super().__init__()
        self.pattern = Pattern(mask)
        self.positions = mask.flatten().nonzero().flatten()
        self.weight = nn.Parameter(layer.weight.detach().flatten()[self.positions], layer.weight.requires_grad)
        self.bias = layer.bias
        self.train(layer.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs), contiguous: dropout draws its numbers in the order of memory."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        outputs: Tensor = _Linear.apply(flat, self.weight, self.pattern)  # type: ignore[no-untyped-call]
        outputs = outputs.to(_outgoing(inputs)).contiguous()
        if self.bias is not None:
            outputs = outputs + self.bias.to(outputs.dtype)
        return outputs.reshape(*inputs.shape[:-1], -1)


class SparseConv2d(nn.Module):
    """A convolution of stride 1 that keeps the image size, with the weights that ``mask`` keeps.

    Each channel of a batch is stored as one long row, ordered by line, then by column, then by image. So each position
    of the kernel is one shift of all rows, and its weights are a sparse matrix (outputs × inputs); the convolution is
    the sum of their products. ``weight`` is 1-D, ordered by position of the kernel, output, input. ``layout`` is the
    layout of the outputs: dropout draws its numbers in the order of memory.
    """

    def __init__(
        self, layer: nn.Conv2d, mask: Tensor, room: Room, layout: torch.memory_format = torch.channels_last
    ) -> None:
        super().__init__()
        outputs, inputs, *kernel = mask.shape
        self.kernel = (kernel[0], kernel[1])
        self.shape, self.room, self.layout = (outputs, inputs), room, layout
        by_position = mask.permute(2, 3, 0, 1).reshape(-1, outputs, inputs)
        numbers = torch.arange(mask.numel()).view(mask.shape).permute(2, 3, 0, 1).reshape(-1, outputs, inputs)
        self.patterns = [Pattern(part) for part in by_position]
        self.positions = numbers[by_position]
        self.weight = nn.Parameter(layer.weight.detach().flatten()[self.positions], layer.weight.requires_grad)
        self.bias = layer.bias
        self.train(layer.training)

    def forward(self, images: Tensor) -> Tensor:
        """N × inputs × H × W → N × outputs × H × W."""
        outputs: Tensor = _Convolution.apply(images, self.weight, self)  # type: ignore[no-untyped-call]
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype).view(-1, 1, 1)


def _outgoing(inputs: Tensor) -> torch.dtype:
    """The type that a dense layer would give its outputs."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else inputs.dtype


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
        inputs = inputs.to(values.dtype)
        ctx.save_for_backward(inputs, values)
        ctx.pattern = pattern
        with torch.autocast("cpu", enabled=False):
            return (pattern.matrix(values) @ inputs.t()).t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        inputs, values = ctx.saved_tensors
        gradient = gradient.to(values.dtype).t()
        back = (ctx.pattern.transposed(values) @ gradient).t() if ctx.needs_input_grad[0] else None
        return back, ctx.pattern.gradient(gradient, inputs.t()) if ctx.needs_input_grad[1] else None, None


class _Grid:
    """The layout of a batch of images in rows: zeros end each line, so that values shifted out of it are zero."""

    def __init__(self, images: Tensor, kernel: tuple[int, int]) -> None:
        self.images, self.height, self.width = images.shape[0], images.shape[2], images.shape[3]
        down, right = kernel[0] // 2, kernel[1] // 2
        self.line = (self.width + right) * self.images
        self.length, self.margin = self.height * self.line, right * self.images
        # For each position of the kernel, the range in which it meets a line of the image, and its shift.
        self.reach = [
            (max(0, down - i) * self.line, min(self.height, self.height + down - i) * self.line,
             (i - down) * self.line + j * self.images)
            for i in range(kernel[0]) for j in range(kernel[1])
        ]  # fmt: skip

    def key(self, channels: int, *, border: bool) -> tuple[int, ...]:
        """Matrices with a border are never mixed with those of other grids, whose zeros lie elsewhere."""
        return (channels, self.images, self.height, self.width, self.line, border)

    def view(self, rows: Tensor, offset: int) -> Tensor:
        """The images in ``rows``, N × C × H × W."""
        shape = (self.images, rows.shape[0], self.height, self.width)
        return rows.as_strided(shape, (1, rows.stride(0), self.line, self.images), offset)

    def rows(self, images: Tensor, dtype: torch.dtype, room: Room) -> Tensor:
        """``images`` in rows, lent from ``room``."""
        rows = room.take(self.key(images.shape[1], border=True), self.length + 2 * self.margin, dtype)
        self.view(rows, self.margin).copy_(images)
        return rows

    def sum_of_products(self, matrices: list[Tensor], rows: Tensor, channels: int, room: Room) -> Tensor:
        """Σ of ``matrices`` times ``rows`` shifted to each position of the kernel, lent from ``room``."""
        total = room.take(self.key(channels, border=False), self.length, rows.dtype).zero_()
        for matrix, (start, end, shift) in zip(matrices, self.reach, strict=True):
            if start < end and matrix.values().numel():
                part = total[:, start:end]
                torch.addmm(part, matrix, rows[:, start + shift : end + shift], out=part)
        return total

    def gradients(self, patterns: list[Pattern], out: Tensor, rows: Tensor) -> Tensor:
        """The gradients of the values of all ``patterns``, from output gradients ``out`` and inputs ``rows``."""
        return torch.cat([
            pattern.gradient(
                out[:, start + self.margin : end + self.margin], rows[:, start + shift : end + shift]
            ) if start < end else out.new_zeros(pattern.count)
            for pattern, (start, end, shift) in zip(patterns, self.reach, strict=True)
        ])  # fmt: skip

    def images_of(self, total: Tensor, dtype: torch.dtype, room: Room, layout: torch.memory_format) -> Tensor:
        """The images of a sum of products, whose matrix goes back to ``room``."""
        view = self.view(total, 0)
        images = torch.empty(view.shape, dtype=dtype, memory_format=layout).copy_(view)
        room.give(self.key(total.shape[0], border=False), total)
        return images


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, layer: SparseConv2d) -> Tensor:
        grid, room, outgoing = _Grid(images, layer.kernel), layer.room, _outgoing(images)
        rows = grid.rows(images, values.dtype, room)
        parts = zip(layer.patterns, torch.split(values, [pattern.count for pattern in layer.patterns]), strict=True)
        matrices = [pattern.matrix(part) for pattern, part in parts]
        with torch.autocast("cpu", enabled=False):
            total = grid.sum_of_products(matrices, rows, layer.shape[0], room)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(values)
            ctx.grid, ctx.rows, ctx.layer, ctx.incoming = grid, rows, layer, images.dtype
        else:
            room.give(grid.key(layer.shape[1], border=True), rows)
        return grid.images_of(total, outgoing, room, layer.layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (values,) = ctx.saved_tensors
        grid, layer, rows = ctx.grid, ctx.layer, ctx.rows
        room = layer.room
        out = grid.rows(gradient, values.dtype, room)
        counts = [pattern.count for pattern in layer.patterns]
        slopes, back = None, None
        if ctx.needs_input_grad[1]:
            slopes = grid.gradients(layer.patterns, out, rows)
        if ctx.needs_input_grad[0]:
            parts = zip(layer.patterns, torch.split(values, counts), strict=True)
            turned = [pattern.transposed(part) for pattern, part in parts]
            turned.reverse()  # the backward pass shifts in the opposite direction
            total = grid.sum_of_products(turned, out, layer.shape[1], room)
            back = grid.images_of(total, ctx.incoming, room, layer.layout)
        room.give(grid.key(layer.shape[0], border=True), out)
        room.give(grid.key(layer.shape[1], border=True), rows)
        ctx.rows = None
        return back, slopes, None
