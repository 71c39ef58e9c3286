"""The machine as far as its kernels depend on it: processor, versions, and limits on instructions."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import msgspec
import torch

RESTRICTING = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""Environment variables that make libraries use fewer instructions than the processor has."""


class Machine(msgspec.Struct, frozen=True):
    """The name of the processor, the vector instructions that may be used, and the version of torch."""

    processor: str
    instructions: str
    torch: str
    restricted: dict[str, str]

    def __str__(self) -> str:
        limits = "".join(f", {name}={value}" for name, value in self.restricted.items())
        return f"{self.processor} ({self.instructions}), torch {self.torch}{limits}"


@cache
def this_machine() -> Machine:
    """The machine of this process."""
    return Machine(
        processor=_words_of_processor().get("model name") or platform.processor() or platform.machine(),
        instructions=" ".join(_instructions()) or torch.backends.cpu.get_cpu_capability(),
        torch=str(torch.__version__),
        restricted={name: os.environ[name] for name in RESTRICTING if os.environ.get(name)},
    )


def _instructions() -> list[str]:
    """The sets of vector instructions that kernels are chosen by, as the system names them."""
    able = _words_of_processor().get("flags", _words_of_processor().get("Features", "")).split()
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve", "sve2")
    return [word for word in known if word in able]


@cache
def _words_of_processor() -> dict[str, str]:
    """The system's description of its first processor; empty if there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
