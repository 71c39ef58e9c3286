"""Checkpoints: a training that was killed continues from the last saved epoch, bit for bit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.errors import InputError


class Checkpoint:
    """One file that holds the whole state of a running training.

    It is written beside and renamed, so that it is complete or missing, and at most every ``every`` seconds.
    """

    def __init__(self, path: Path, *, every: float = 20.0) -> None:
        self.path, self.every = path, every
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state`` (tensors, numbers, strings, and lists and dicts of them)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".writing")
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may keep the rename, but lose the content
        os.replace(beside, self.path)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last, or None; only tensors and plain values are unpickled."""
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        return state


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory, as ``parameter/quantity`` → tensor (a copy)."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{quantity}": torch.as_tensor(value).detach().clone()
        for parameter, memory in optimizer.state.items()
        for quantity, value in memory.items()
        if value is not None
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the memory from :func:`optimizer_tensors`; InputError if it names a parameter that the model lacks."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in parameters:
            raise InputError(f"the optimiser state has an entry for '{name}'", expected="a parameter of the model")
        target = parameters[name]
        if value.shape == target.shape:
            # Fused optimisers walk through memory, so their tensors need the parameter's memory layout.
            placed = torch.empty_like(target, dtype=value.dtype, requires_grad=False).copy_(value)
        else:
            placed = value.detach().to(device=target.device, copy=True)  # counters must be on the device, too
        optimizer.state[target][quantity] = placed
