"""The C kernels, compiled at first use with the system's compiler and kept in the user's cache.

``CACHE/kernels/sparse/NAME.so``: the name is a digest of the sources, the command, the compiler's version and the
processor, so that machines that share a cache folder never load each other's file.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import torch

from oneticket.identity import digest
from oneticket.kernels.machine import RESTRICTING, this_machine
from oneticket.places import cache_home

LOG = logging.getLogger("oneticket.kernels")

Number = Literal["float", "double"]

Compute = Literal["measured", "sparse", "dense"]
"""Which layers compute with kept weights only: where that is measured to be faster, all that can, none."""

NUMBERS: dict[torch.dtype, Number] = {torch.float32: "float", torch.float64: "double"}

SOURCES = ("vectors.h", "gather.c", "slopes.c", "norm.c", "threads.c")
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-ffp-contract=fast", "-fno-math-errno")
SECONDS = 60
"""A compiler that takes longer is taken for broken."""

LOST = "sparse layers take PyTorch's kernels, which pay only where almost no weight is left"


class Unavailable(Exception):
    """Why the kernels can't be used here."""


@cache
def library(number: Number = "float") -> ctypes.CDLL:
    """The kernels for ``number``; compiled if this machine's cache lacks them.

    Raises
    ------
    Unavailable : no compiler, or one that fails.
    """
    return _load(number)


def available() -> bool:
    """Whether the kernels work here; compiles them if need be."""
    return why_not() is None


@cache
def why_not() -> str | None:
    """Why the kernels can't be used here, which the log ``oneticket.kernels`` says once; None if they can."""
    try:
        library()
    except Unavailable as error:
        LOG.warning("%s: %s", error, LOST)
        return str(error)
    return None


def compiler() -> list[str]:
    """The command of the C compiler: ``$CC``, or the first of cc, gcc and clang that is installed."""
    named = os.environ.get("CC", "").split()
    if named:
        return named
    found = next((place for name in ("cc", "gcc", "clang") if (place := shutil.which(name))), None)
    if found is None:
        raise Unavailable("no C compiler is installed (cc, gcc or clang; CC names another one)")
    return [found]


def command(number: Number = "float") -> list[str]:
    """The compiler's command, all but the name of the output."""
    folder = Path(__file__).parent
    files = [str(folder / name) for name in SOURCES if name.endswith(".c")]
    extra = os.environ.get("ONETICKET_CFLAGS", "").split()
    return [*compiler(), *FLAGS, *_instructions(), *extra, f"-DREAL={number}", *files]


def _instructions() -> list[str]:
    """The processor's instructions, or those that the environment restricts libraries to."""
    machine = this_machine()
    limits = " ".join(os.environ.get(name, "") for name in RESTRICTING).lower().split()
    if machine.restricted and any("avx512" not in limit for limit in limits):
        return ["-march=x86-64-v3"] if "avx2" in limits else ["-march=x86-64"]
    return ["-mcpu=native"] if "asimd" in machine.instructions else ["-march=native"]


def _load(number: Number) -> ctypes.CDLL:
    order = command(number)
    facts = [order, _version(order[0]), msgspec.to_builtins(this_machine()), *_texts()]
    file = cache_home() / "kernels" / "sparse" / f"{digest(facts)[:16]}-{number}.so"
    if file.exists():
        try:
            return ctypes.CDLL(str(file))
        except OSError:  # damaged: made anew
            LOG.info("%s can't be loaded and is compiled again", file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=file.parent) as folder:
            built = _compile(order, Path(folder))
            os.replace(built, file)  # atomic: of two processes that compile at once, the last one's file stays
        return ctypes.CDLL(str(file))
    except OSError as error:
        LOG.info("%s can't be written (%s): the kernels are compiled for this process only", file.parent, error)
    with tempfile.TemporaryDirectory(prefix="oneticket-") as folder:
        return ctypes.CDLL(str(_compile(order, Path(folder))))  # a loaded file may be removed


def _compile(order: list[str], folder: Path) -> Path:
    target = folder / "kernels.so"
    try:
        done = subprocess.run([*order, "-o", str(target)], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the C compiler {order[0]} does not run ({error})") from None
    if done.returncode != 0 or not target.exists():
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        said = next((line for line in lines if "error" in line), lines[0])
        raise Unavailable(f"the C compiler {order[0]} fails: {said}")
    return target


@cache
def _version(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the C compiler {program} does not run ({error})") from None
    return done.stdout


@cache
def _texts() -> tuple[str, ...]:
    return tuple((Path(__file__).parent / name).read_text(encoding="utf-8") for name in SOURCES)
