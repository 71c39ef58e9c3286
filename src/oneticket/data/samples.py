"""Samples as users hold them (NumPy arrays, dicts, several inputs) → inputs and targets of one form."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oneticket.calling import Inputs, each
from oneticket.errors import InputError
from oneticket.randomness import seeded

LABELS = ("labels", "label")
IGNORED = -100
"""The target of a token that does not count."""


def as_pair(data: Any) -> tuple[Inputs, Tensor] | None:
    """Inputs and targets of a pair, or of a dict with all samples; None if ``data`` is neither.

    NumPy numbers become tensors of torch's default types: float64 the default float, whole numbers int64.
    """
    if isinstance(data, Mapping):
        return _split(data)
    if not (isinstance(data, tuple | list) and len(data) == 2):
        return None
    inputs, targets = _tensors(data[0]), _tensor(data[1])
    return None if inputs is None or targets is None else (inputs, targets)


def as_batch(batch: Any, dataset: object) -> tuple[Inputs, Tensor]:
    """Inputs and targets of a batch that a loader has collated.

    Raises
    ------
    InputError
        For anything but a pair, or a dict of tensors with labels.
    """
    pair = as_pair(batch)
    if pair is None:
        holds = f", but {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise InputError(
            f"{type(dataset).__name__} does not give (input, target) pairs of tensors or numbers{holds}",
            expected="pairs, or dicts of tensors with 'labels'",
        )
    return pair


def moved(batch: tuple[Inputs, Tensor], device: torch.device) -> tuple[Inputs, Tensor]:
    """``batch`` on ``device``; from pinned memory the copy runs during the previous step."""
    if device.type == "cpu":
        return batch
    inputs, targets = (each(lambda t: t.pin_memory().to(device, non_blocking=True), part) for part in batch)
    return inputs, targets


def _split(batch: Mapping[Any, Any]) -> tuple[Inputs, Tensor] | None:
    inputs = _tensors(batch)
    if inputs is None or not all(isinstance(name, str) for name in inputs):
        return None
    for name in LABELS:
        if name in inputs:
            targets = inputs.pop(name)
            return (inputs, targets) if inputs else None
    if "input_ids" not in inputs:
        return None
    tokens, attended = inputs["input_ids"], inputs.get("attention_mask")
    return inputs, tokens if attended is None else tokens.masked_fill(attended == 0, IGNORED)


def _tensors(part: Any) -> Inputs | None:
    """A tensor, or a tuple or dict of them; None if there is anything else in it."""
    if not isinstance(part, Mapping | tuple | list):
        return _tensor(part)
    found = [_tensor(value) for value in (part.values() if isinstance(part, Mapping) else part)]
    if not found or any(value is None for value in found):
        return None
    return dict(zip(part, found, strict=True)) if isinstance(part, Mapping) else tuple(found)


def _tensor(part: Any) -> Tensor | None:
    if isinstance(part, Tensor):
        return part
    if not isinstance(part, np.ndarray) or part.dtype.kind not in "fiub":
        return None
    default = np.dtype(str(torch.get_default_dtype()).removeprefix("torch."))
    wanted: Any = {"f": default if part.dtype == np.float64 else part.dtype, "b": part.dtype}
    return torch.from_numpy(np.array(part, dtype=wanted.get(part.dtype.kind, np.int64)))


@contextmanager
def seeded_everywhere(seed: int, *generators: torch.Generator) -> Iterator[None]:
    """Set the global generators of torch, NumPy and Python, and ``generators``, to ``seed`` inside; restored after."""
    python, legacy = random.getstate(), np.random.get_state()
    states = [generator.get_state() for generator in generators]
    random.seed(seed)
    np.random.seed(seed)
    for generator in generators:
        generator.manual_seed(seed)
    try:
        with seeded(seed):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
