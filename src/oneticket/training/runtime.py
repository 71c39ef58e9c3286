"""`Runtime`: how a training is computed, none of which changes its numbers beyond rounding; and the process's heap."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import torch

from oneticket.kernels.trial import Layout
from oneticket.training.checkpoint import Checkpoint


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """How a training is computed. Numbers differ by rounding at most.

    Parameters
    ----------
    device : ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    layout : ``"channels-last"`` lays images and 2-D convolutions out with the channels last, whose kernels run a third
        faster. For networks that do not rely on the layout of what flows through them (``x.view`` does). Before the
        first step, values and gradients of each layer are compared with those of the plain layout, once for a machine;
        layers that differ, and networks that can't be examined, are computed plainly, which ``Training.kernels`` and
        the log ``oneticket.kernels`` say.
    compact : with masks, compute without dead channels and masked weights, where that is faster. A callback that
        modifies the training, or a ``loss`` of your own, rules it out.
    threads : of torch, while this training runs; None leaves them as they are.
    checkpoint : the file of the running state; a checkpoint found there is continued.
    """

    device: str = "cpu"
    layout: Layout = "contiguous"
    compact: bool = True
    threads: int | None = None
    checkpoint: Checkpoint | None = None


@contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """Inside, torch computes with ``count`` threads; with as many as before where None."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# From <malloc.h> of glibc, and the values that glibc itself arrives at, on 64 bits, once a large block was freed.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_NEVER, _USUAL_TRIM, _USUAL_MMAP, _USUAL_MMAP_MAX = -1, 64 * 2**20, 32 * 2**20, 2**16


@contextmanager
def kept_heap() -> Iterator[None]:
    """Keeps freed memory in the process inside the context, and returns it to the system on exit.

    glibc maps each block of more than 32 MiB anew, and returns it when it is freed: with activations of that size, page
    faults can take a third of every step. With another C library nothing changes.
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
