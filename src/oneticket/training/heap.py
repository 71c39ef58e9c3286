"""The heap of the C library: memory that one step frees is what the next one takes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of <malloc.h> of glibc, and what glibc itself arrives at, on 64 bits, once a program has freed a large block.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_NEVER, _USUAL_TRIM, _USUAL_MMAP, _USUAL_MMAP_MAX = -1, 64 * 2**20, 32 * 2**20, 2**16


@contextmanager
def kept_heap() -> Iterator[None]:
    """For the time, freed memory stays with the process; afterwards what is free is given back.

    glibc maps each block of more than 32 MiB anew, and gives it back when it is freed: where activations are of that
    size, page faults can take a third of every step. Without glibc nothing is changed.
    """
    set_option, trim = _glibc()
    set_option(_M_MMAP_MAX, 0)
    set_option(_M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        set_option(_M_MMAP_MAX, _USUAL_MMAP_MAX)
        set_option(_M_MMAP_THRESHOLD, _USUAL_MMAP)
        set_option(_M_TRIM_THRESHOLD, _USUAL_TRIM)
        trim(0)


@functools.cache
def _glibc() -> tuple[Callable[[int, int], object], Callable[[int], object]]:
    try:
        library = ctypes.CDLL(None)
        return library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return lambda *_: None, lambda _: None
