"""State dicts from files that other programs wrote: tensors and plain values are read, nothing is run."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from oneticket.errors import InputError

_WRAPPED = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which checkpoints hold the state dict."""


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, or what ``torch.save`` wrote, read with ``weights_only=True``.

    A state dict under ``state_dict``, ``model_state_dict``, ``model``, ``net`` or ``weights`` of a checkpoint is found;
    what is not a tensor is left out.

    Raises
    ------
    InputError
        For a file that is not there or not readable, that holds code, or that holds no state dict.
    """
    place = Path(path)
    where = str(place)
    try:
        with place.open("rb") as file:
            packed = file.read(9)[8:] == b"{"
        content = safetensors.load_file(place) if packed else torch.load(place, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError("the file does not exist", where=where, expected="a state dict") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot be read ({error})", where=where, expected="a state dict") from error
    except Exception as error:  # what unpickling raises is not of one kind
        reason = str(error).partition("\n")[0]
        expected = (
            "a state dict of tensors, torch.save(model.state_dict(), …); a whole model holds code, which is not run"
        )
        raise InputError(f"cannot be read as tensors ({reason[:200]})", where=where, expected=expected) from error
    content = _unwrapped(content)
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"holds a {type(content).__name__} without tensors", where=where, expected="a state dict")
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}


def _unwrapped(content: object) -> object:
    if isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        for key in _WRAPPED:
            if isinstance(content.get(key), dict):
                return content[key]
    return content
