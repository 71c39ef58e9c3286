"""Layers on the plain path: float32 in plain layout (NCHW), in a network of another layout or precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.kernels.pointwise import as_plain
from oneticket.kernels.trial import Layout

MEMORY_FORMATS: dict[Layout, torch.memory_format] = {
    "channels-last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}
"""Layouts in torch's words."""


@contextmanager
def on_plain_path(model: nn.Module, names: Iterable[str], layout: Layout) -> Iterator[None]:
    """A context in which the layers ``names`` compute on the plain path and return their images in ``layout``.

    Modules and parameters stay the same objects with the same state; on exit they get their own type back.
    """
    layers = [model.get_submodule(name) for name in names]
    kinds = [type(layer) for layer in layers]
    for layer in layers:
        lay_out(layer, "contiguous")
        layer.__class__ = _plain_kind(type(layer), layout)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind


def lay_out(model: nn.Module, layout: Layout) -> None:
    """Bring the weights of ``model`` into ``layout``, in place."""
    model.to(memory_format=MEMORY_FORMATS[layout])  # type: ignore[call-overload]


class _Plain(nn.Module):
    """Casts before and after the forward pass of a layer on the plain path."""

    gives: torch.memory_format

    def forward(self, *inputs: Any, **more: Any) -> Any:
        given = [_narrowed(part) for part in inputs]
        with torch.autocast(_device_of(inputs), enabled=False):
            outputs = super().forward(*given, **more)
        maps = isinstance(outputs, Tensor) and outputs.dim() == 4
        return outputs.contiguous(memory_format=self.gives) if maps else outputs


@cache
def _plain_kind(kind: type[nn.Module], layout: Layout) -> type[nn.Module]:
    return type(f"Plain{kind.__name__}", (_Plain, kind), {"gives": MEMORY_FORMATS[layout]})


def _device_of(inputs: tuple[Any, ...]) -> str:
    return next((part.device.type for part in inputs if isinstance(part, Tensor)), "cpu")


def _narrowed(part: Any) -> Any:
    if not isinstance(part, Tensor):
        return part
    half = part.dtype in (torch.bfloat16, torch.float16)
    return as_plain(part.float() if half else part)
