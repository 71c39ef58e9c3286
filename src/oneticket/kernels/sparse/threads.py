"""The work of a kernel divided among threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

_WORTH = 200_000
"""Multiplications below which a second thread does not pay."""


def divided(part: Callable[[int, int], object], count: int, work: int) -> None:
    """Call ``part`` on ranges of 0 … count - 1, one for each of torch's threads.

    Kernels in C release Python's lock while they compute. ``work`` is the number of multiplications.
    """
    threads = min(torch.get_num_threads(), count) if work >= _WORTH else 1
    if threads <= 1:
        part(0, count)
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    others = [_pool(os.getpid()).submit(part, *bounds[i : i + 2]) for i in range(1, threads)]
    part(bounds[0], bounds[1])
    for other in others:
        other.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process: a child of ``fork`` has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="oneticket-sparse")
