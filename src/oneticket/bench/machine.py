"""The machine and the versions that a measurement was made with."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from oneticket.ticket import versions
from oneticket.training.precision import bf16_units


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hardware and versions. ``bf16`` names what multiplies bfloat16 in hardware, and is empty where nothing does."""

    processor: str
    cores: int
    memory_gib: float
    vectors: str
    bf16: list[str]
    device: str
    system: str
    versions: dict[str, str]


def this_machine(device: str = "cpu") -> Machine:
    """The machine that runs this."""
    return Machine(
        processor=_model_name() or platform.processor() or platform.machine(),
        cores=cores(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        vectors=torch.backends.cpu.get_cpu_capability(),
        bf16=list(bf16_units(device)),
        device="cpu" if device == "cpu" else torch.cuda.get_device_name(device),
        system=f"{platform.system()} {platform.release()}",
        versions=versions(),
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads inside the context, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _model_name() -> str:
    """The name of the first processor in /proc/cpuinfo; empty where there is no such name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((name.strip() for key, _, name in found if key.strip() == "model name"), "")
