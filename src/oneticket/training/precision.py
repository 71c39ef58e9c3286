"""Precision: what multiplies bfloat16 on a device, and what is to be said there of the precision of a recipe."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from oneticket.training.recipe import Precision

CPU_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""Words for bfloat16 products in the list of what a processor can do: x86-64, and, last, 64-bit Arm."""

CUDA_SINCE = (8, 0)
"""The compute capability from which on GPUs multiply bfloat16 in hardware."""


class Choice(msgspec.Struct, frozen=True):
    """A precision on a device: whether the other one would not be faster there, and a sentence that says why."""

    precision: Precision
    fastest: bool
    reason: str


def bf16_units(device: str = "cpu") -> tuple[str, ...]:
    """What multiplies bfloat16 in hardware on ``device``; empty where nothing does, or nothing is known to.

    Not what libraries call supported: they emulate it elsewhere, which is slower than float32.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        able = _processor_words()
        return tuple(unit for unit in CPU_UNITS if unit in able)
    if kind == "cuda" and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(device)
        return (f"compute capability {major}.{minor}",) if (major, minor) >= CUDA_SINCE else ()
    return ()


def choice(precision: Precision, device: str = "cpu") -> Choice:
    """What ``precision``, which a recipe asks for, means for the time on ``device``.

    No precision is refused, and none is ever replaced: the numbers depend on it, and a recipe is to give the same ones
    everywhere.
    """
    units = " and ".join(bf16_units(device))
    nothing = f"nothing on {device} is known to multiply bfloat16 in hardware"
    if precision == "bf16":
        reason = f"{units} multiplies it" if units else f"{nothing}: slower than float32 here"
        return Choice(precision, bool(units), reason)
    reason = f"bf16 would be faster here ({units}), with other numbers" if units else nothing
    return Choice(precision, not units, reason)


def fastest(device: str = "cpu") -> Choice:
    """The precision that is fastest on ``device``."""
    return choice("bf16" if bf16_units(device) else "float32", device)


def _processor_words() -> set[str]:
    """What the first processor can do, in the words of the system; empty where it does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = (line.partition(":") for line in lines)
    return set(next((words for key, _, words in found if key.strip() in ("flags", "Features")), "").split())
