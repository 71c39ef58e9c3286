"""Checkpoints: a training that was killed continues from the last saved step, bit for bit."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneticket.errors import InputError

LOG = logging.getLogger("oneticket.checkpoint")
_DIGEST = hashlib.sha256().digest_size
_END, _END_SIZE = b"PK\5\6", 22  # of a zip archive, which is what torch writes


class Checkpoint:
    """One file that holds the whole state of a running training.

    It is written beside and renamed, so that it is complete or missing, and at most every ``every`` seconds. Its last
    32 bytes are the SHA-256 of the others.

    Parameters
    ----------
    path : the file.
    every : seconds between two checkpoints.
    on_step : called after each step of the training, and each batch of its validation: whoever watches the process sees
        that it advances.
    """

    def __init__(self, path: Path, *, every: float = 20.0, on_step: Callable[[], None] | None = None) -> None:
        self.path, self.every, self.on_step = path, every, on_step
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state`` (tensors, numbers, strings, and lists and dicts of them)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}.writing")
        content = io.BytesIO()
        torch.save(state, content)
        try:
            with beside.open("wb") as file:
                file.write(content.getbuffer())
                file.write(hashlib.sha256(content.getbuffer()).digest())
                file.flush()
                os.fsync(file.fileno())  # otherwise a power cut may keep the rename, but lose the content
            os.replace(beside, self.path)
        except OSError:
            beside.unlink(missing_ok=True)  # on a full disk, the file holds only a part
            raise
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None without one, or if it is damaged: then it is dropped, with one line.

        Only tensors and plain values are unpickled.
        """
        try:
            data = memoryview(self.path.read_bytes())
        except FileNotFoundError:
            return None
        content = data[:-_DIGEST]
        if hashlib.sha256(content).digest() != data[-_DIGEST:]:
            content = data  # of an earlier version, which wrote no digest, or damaged
        try:
            if content is data and bytes(data[-_END_SIZE:][: len(_END)]) != _END:
                raise ValueError("it does not agree with its digest")
            state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        except Exception as error:  # what torch makes of damaged files is not documented
            self.drop(f"is damaged ({(str(error) or type(error).__name__).splitlines()[0]})")
            return None
        return state

    def drop(self, why: str) -> None:
        """Drop the file, and say why; the training starts anew."""
        LOG.warning("%s %s; it is dropped, and the training starts anew", self.path, why)
        self.path.unlink(missing_ok=True)


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
