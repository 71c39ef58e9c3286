"""Checks made before hours are spent: devices, and files to write to."""

from __future__ import annotations

import os
from pathlib import Path


def check_device(device: str) -> None:
    """Raise InputError when this machine does not have ``device``."""
    from oneticket.errors import InputError

    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("torch sees no CUDA device", where="--device", expected="cpu on this machine")


def check_out(out: Path) -> None:
    """Raise InputError when the file ``out`` cannot be written: better now than after hours."""
    from oneticket.errors import InputError

    if out.is_dir():
        raise InputError(f"'{out}' is a folder", where="--out", expected="a file")
    if not out.parent.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise InputError(f"'{out}' cannot be written", where="--out", expected="a file in an existing folder")
