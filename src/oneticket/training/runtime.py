"""`Runtime`: how a training is computed, which changes its numbers at most by rounding; and the process's heap."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
import torch

from oneticket.conversion import conform
from oneticket.errors import InputError
from oneticket.kernels.sparse.building import Compute
from oneticket.kernels.trial import Layout
from oneticket.training.checkpoint import Checkpoint


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """How a training is computed. Numbers differ by rounding at most.

    Parameters
    ----------
    device : ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    layout : ``"channels-last"`` stores images and 2-D convolutions with the channels last, whose kernels run a third
        faster. Use it for networks that do not rely on the layout of activations (``x.view`` does). Before the first
        step, values and gradients of each layer are compared with those of the plain layout, once per machine. Layers
        that differ, and networks that can't be examined, use the plain layout; ``Training.kernels`` and the log
        ``oneticket.kernels`` say so.
    compact : whether to compute without dead channels and masked weights, where masks make that faster. Not with a
        callback that modifies the training, nor with a custom ``loss``.
    compute : which layers compute with their kept weights only: ``"measured"``, those for which a whole step is then
        measured to be faster, once for each network and density; ``"sparse"``, all that can; ``"dense"``, none. Only
        where ``compact`` applies.
    threads : number of torch's threads while this training runs; None leaves it unchanged.
    checkpoint : the file of the running state; training continues from a checkpoint found there.
    """

    device: str = "cpu"
    layout: Layout = "contiguous"
    compact: bool = True
    compute: Compute = "measured"
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    checkpoint: Checkpoint | None = None

    def __post_init__(self) -> None:
        if isinstance(self.device, torch.device):
            msgspec.structs.force_setattr(self, "device", str(self.device))
        conform(self)
        check_device(self.device)


def check_device(device: str) -> None:
    """Raise InputError for a device that torch does not know, or that this machine does not have."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"device = '{device}' is not a device of torch", expected="cpu, cuda or cuda:1") from None
    if kind == "meta" or (kind == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"device = '{device}': this machine has no such device", expected="cpu")


@contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """A context in which torch computes with ``count`` threads; None leaves the number unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# From <malloc.h> of glibc, and the values that glibc itself adopts, on 64 bits, after a large block was freed.
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
