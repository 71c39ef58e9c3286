"""The tensor files of a cell: states and masks as safetensors that anyone can read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from oneticket.errors import InputError
from oneticket.identity import canonical_json
from oneticket.masks import Masks


def save_masks(path: Path, masks: Masks) -> None:
    """Write the packed bits of every mask (numpy.packbits), with their shapes as JSON in the metadata."""
    shapes = {name: list(tensor.shape) for name, tensor in masks.items()}
    _save(path, masks.packed(), {"shapes": shapes})


def load_masks(path: Path) -> Masks:
    """The inverse of :func:`save_masks`; InputError for a file that is damaged."""
    with _told(path):
        tensors, facts = _load(path)
        return Masks.unpacked({name: tensors[name] for name in facts["shapes"]}, facts["shapes"])


def save_state(path: Path, state: Mapping[str, Tensor], masks: Masks | None = None) -> None:
    """Write a state dict; of a masked tensor only the kept values, row-major, as a vector."""
    kept = masks or Masks({})
    tensors = {n: t[kept[n]] if n in kept else t.contiguous() for n, t in state.items()}
    _save(path, tensors, {"kept_values_of": sorted(n for n in state if n in kept), "names": list(state)})


def load_state(path: Path, masks: Masks | None = None) -> dict[str, Tensor]:
    """The inverse of :func:`save_state`, given the same masks; masked entries are zero.

    InputError for a file that is damaged.
    """
    with _told(path):
        tensors, facts = _load(path)
        for name in facts["kept_values_of"]:
            mask = (masks or Masks({}))[name]
            full = torch.zeros(mask.shape, dtype=tensors[name].dtype)
            full[mask] = tensors[name]
            tensors[name] = full
        return {name: tensors[name] for name in facts["names"]}


class Correct:
    """Which images a network classifies rightly, batch by batch."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def note(self, outputs: Tensor, labels: Tensor) -> None:
        """Take in one batch: its outputs, N × classes, and labels, N."""
        self._parts.append(outputs.argmax(1) == labels)

    def save(self, path: Path) -> None:
        """Write a bit for each image in their order, packed (numpy.packbits), and nothing else; or no file for none."""
        if self._parts:
            path.write_bytes(np.packbits(torch.cat(self._parts).cpu().numpy()).tobytes())


def _save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    beside = path.with_name(path.name + ".writing")
    # Written as bytes, so that the file gets the usual permissions of a new file: a store may be shared.
    beside.write_bytes(save(dict(tensors), metadata={"oneticket": canonical_json(facts)}))
    os.replace(beside, path)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator of its own)
        return tensors, json.loads(file.metadata()["oneticket"])


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes of its readers into one error."""
    try:
        yield
    except Exception as error:  # a cell of an earlier version has no digests, so its bytes can be anything
        remedy = "`oneticket store verify STORE --repair` moves the cell aside, and a new run computes it again"
        expected = f"a file as a cell of the store has it: {remedy}"
        raise InputError(f"is damaged ({error})", where=str(path), expected=expected) from None
