"""The operations of a network that layout or precision may change, as trials, with the layers they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from oneticket.kernels.trial import Blank, Layout, Listed, Trial

LAYERS = frozenset(
    f"aten.{name}"
    for name in (
        "convolution", "addmm", "mm", "bmm", "baddbmm", "linear",
        "native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "native_group_norm",
        "native_layer_norm", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean",
        "upsample_nearest2d", "upsample_bilinear2d", "reflection_pad2d", "replication_pad2d",
    )
)  # fmt: skip
"""Operations with special kernels for a layout or a precision; those that work entry by entry are not among them."""

PLAIN_TYPES = ("float32", "float64")


def record(network: nn.Module, forward: Callable[[], Any], layout: Layout, device: str) -> dict[Trial, set[str]]:
    """The operations of ``network`` that ``layout`` or the precision takes off the plain path, with their layers.

    ``forward`` is called with images in plain layout, so that none of the kernels in question runs; the types that the
    precision gives to tensors are recorded as they are. The layer of an operation is the innermost module at work, by
    name.
    """
    recorder = _Recorder(layout, device)
    with _entered(network, recorder.at), torch.enable_grad(), recorder:
        forward()
    return recorder.seen


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, layout: Layout, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layout, self.device = layout, device
        self.at: list[str] = [""]
        self.seen: dict[Trial, set[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = f"{func.namespace}.{func.overloadpacket.__name__}"
        if name in LAYERS and all(more is None for more in (kwargs or {}).values()) and self.differs(args):
            maps = any(isinstance(part, Tensor) and part.dim() == 4 for part in args)
            layout: Layout = self.layout if maps else "contiguous"
            trial = Trial(op=name, arguments=tuple(map(_blanked, args)), layout=layout, device=self.device)
            self.seen.setdefault(trial, set()).add(self.at[-1])
        return func(*args, **(kwargs or {}))

    def differs(self, arguments: Any) -> bool:
        tensors = [part for part in arguments if isinstance(part, Tensor)]
        if any(tensor.layout != torch.strided for tensor in tensors):
            return False
        maps = self.layout == "channels-last" and any(tensor.dim() == 4 for tensor in tensors)
        return maps or any(tensor.is_floating_point() and _kind(tensor) not in PLAIN_TYPES for tensor in tensors)


@contextmanager
def _entered(network: nn.Module, at: list[str]) -> Iterator[None]:
    """A context in which the last entry of ``at`` is the name of the innermost module at work."""

    def enter(name: str, *_: Any) -> None:
        at.append(name)

    def leave(*_: Any) -> None:
        at.pop()

    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(partial(enter, name)))
        handles.append(module.register_forward_hook(leave, always_call=True))  # also after an exception
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blanked(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return Blank(tuple(argument.shape), _kind(argument), argument.requires_grad and argument.is_floating_point())
    if isinstance(argument, list | tuple):
        return Listed(tuple(map(_blanked, argument)))
    return argument


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
