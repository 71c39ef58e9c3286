"""Precision: whether bfloat16 is faster on a device, and the hint shown for the precision of a recipe."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import torch

from oneticket.training.recipe import Precision

CPU_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""Processor flags for bfloat16 products: x86-64, and, last, 64-bit Arm."""

CUDA_SINCE = (8, 0)
"""The compute capability from which on GPUs multiply bfloat16 in hardware."""


class Choice(msgspec.Struct, frozen=True):
    """Whether a precision is the fastest on a device, and the reason as a sentence."""

    precision: Precision
    fastest: bool
    reason: str


def bf16_units(device: str = "cpu") -> tuple[str, ...]:
    """The hardware units of ``device`` that multiply bfloat16; empty if it has none, or none is known.

    Libraries also call bfloat16 supported where they emulate it, which is slower than float32; that does not count.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        able = _processor_words()
        return tuple(unit for unit in CPU_UNITS if unit in able and not _kept_from(unit))
    if kind == "cuda" and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(device)
        return (f"compute capability {major}.{minor}",) if (major, minor) >= CUDA_SINCE else ()
    return ()


def choice(precision: Precision, device: str = "cpu") -> Choice:
    """Judge the speed of a recipe's ``precision`` on ``device``.

    No precision is refused or replaced: the numbers depend on it, and a recipe must give the same numbers everywhere.
    """
    units = " and ".join(bf16_units(device))
    nothing = f"nothing on {device} is known to multiply bfloat16 in hardware"
    if precision == "bf16":
        reason = f"{units} multiplies it" if units else f"{nothing}: slower than float32 here"
        return Choice(precision, bool(units), reason)
    reason = (
        f"bf16 may be faster here ({units}; `oneticket bench` measures it), with other numbers" if units else nothing
    )
    return Choice(precision, not units, reason)


def fastest(device: str = "cpu") -> Choice:
    """The precision that is fastest on ``device``."""
    return choice("bf16" if bf16_units(device) else "float32", device)


def _kept_from(unit: str) -> bool:
    """Whether the environment keeps oneDNN, which has the kernels, from using ``unit``."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    if limit.upper() in ("ALL", "DEFAULT"):
        return False
    return not ("AMX" in limit.upper() or (unit == "avx512_bf16" and "BF16" in limit.upper()))


def _processor_words() -> set[str]:
    """The feature flags of the first processor, as the system lists them; empty if it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = (line.partition(":") for line in lines)
    return set(next((words for key, _, words in found if key.strip() in ("flags", "Features")), "").split())
