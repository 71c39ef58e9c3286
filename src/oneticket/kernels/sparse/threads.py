"""The work of a kernel divided among threads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneticket.kernels.sparse.building import Number, library

_WORTH = 200_000
"""Multiplications below which a second thread does not pay."""

_PARTS = 4
"""Parts for each thread: who is early takes one more."""


def divided(
    kernel: str, number: Number, arguments: Sequence[ctypes.Structure | Tensor | None], count: int, work: int,
    before: NDArray[np.int64] | None = None,
) -> None:  # fmt: skip
    """Call ``kernel`` on 0 … count - 1, in parts by torch's threads; numbers do not depend on how it is divided.

    Parameters
    ----------
    arguments : the structure that describes the work, then tensors, which lie as the kernel expects; None is null.
    work : the number of multiplications.
    before : those before each of 0 … count, in any unit, where they are not equally many.
    """
    loaded = library(number)
    function, given = getattr(loaded, kernel), (ctypes.c_void_p * len(arguments))(*map(_place, arguments))
    threads = torch.get_num_threads() if work >= _WORTH else 1
    parts = min(_PARTS * threads, count)
    if threads <= 1 or parts <= 1:
        function(given, ctypes.c_long(0), ctypes.c_long(count))
        return
    cuts = [count * i // parts for i in range(parts + 1)]
    if before is not None:
        inner = np.searchsorted(before, [before[-1] * i / parts for i in range(1, parts)])
        cuts = [0, *map(int, inner), count]
    bounds = (ctypes.c_long * len(cuts))(*cuts)
    loaded.divide(function, given, bounds, ctypes.c_long(parts), ctypes.c_int(threads - 1))


def _place(argument: ctypes.Structure | Tensor | None) -> int | None:
    if argument is None:
        return None
    return argument.data_ptr() if isinstance(argument, Tensor) else ctypes.addressof(argument)
