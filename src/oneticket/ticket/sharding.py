"""Tensors that several processes hold in parts (DTensor), such as the parameters of a model under FSDP2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oneticket.masks import Masks


def layout(tensor: Tensor) -> tuple[Any, Any] | None:
    """Device mesh and placements of a distributed tensor; None for a plain one."""
    mesh = getattr(tensor, "device_mesh", None)
    return None if mesh is None else (mesh, tuple(tensor.placements))  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that this process holds: it shares its memory; all of a plain one."""
    return tensor if layout(tensor) is None else tensor.to_local()  # type: ignore[attr-defined]


def laid_out_like(value: Tensor, tensor: Tensor) -> Tensor:
    """``value``, which every process holds whole, distributed as ``tensor`` is; itself if that is a plain one."""
    if (kind := layout(tensor)) is None:
        return value
    from torch.distributed.tensor import distribute_tensor  # a process on its own has no use for it

    mesh, placements = kind
    # No process sends: each cuts its part out of its own.
    return distribute_tensor(value.to(tensor.device), mesh, placements, src_data_rank=None)


def zero_masked(tensors: Mapping[str, Tensor], masks: Masks) -> int:
    """Set the masked weights of ``tensors`` to exactly 0.0, in place; the number of those that were not."""
    written = 0
    with torch.no_grad():
        for name, mask in masks.items():
            own, gone = local(tensors[name].detach()), ~local(laid_out_like(mask, tensors[name]))
            gone = gone.to(own.device)
            written += int((own != 0).logical_and_(gone).sum())
            own.masked_fill_(gone, 0)
    return written
