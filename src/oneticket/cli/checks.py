"""Checks made before hours are spent: devices, and files to write to."""

from __future__ import annotations

import os
from pathlib import Path

import click


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


def _limit_pixels(context: click.Context, parameter: click.Parameter, value: int | None) -> None:
    if value is not None:
        from oneticket.data import pixel_limit

        context.with_resource(pixel_limit(value))


max_pixels = click.option(
    "--max-pixels", type=click.IntRange(1), expose_value=False, callback=_limit_pixels,
    help="Pixels that a picture may have; all of a data set, 128 times as many.  [default: 67108864]",
)  # fmt: skip
