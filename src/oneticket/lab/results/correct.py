"""Which test images the networks of a store classify rightly, read when a comparison asks for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from oneticket.lab.cells.records import CORRECT
from oneticket.lab.cells.store import Store


def correct(store: Store, cell: str) -> NDArray[np.bool_] | None:
    """Which test images the network of a finished cell classifies rightly, in the order of the split.

    None for a cell that has not told: its training diverged, it is not tested, or it is of an earlier version.

    Raises
    ------
    InputError : the cell is damaged.
    """
    record = store.read(cell)
    if CORRECT not in (record.get("files") or ()):
        return None
    path = store.file(cell, CORRECT)
    bits = np.fromfile(path, dtype=np.uint8)
    images = record["outcome"].get("test_images", 0)
    if len(bits) != -(-images // 8):
        raise store.damaged(path, f"it has {8 * len(bits)} bits, its record {images} images")
    return np.unpackbits(bits, count=images).astype(np.bool_)


def correct_of(store: Store) -> Callable[[str], NDArray[np.bool_] | None]:
    """:func:`correct` of the cells of one store, each of which is read once; kept as packed bits."""

    @cache
    def packed(cell: str) -> tuple[NDArray[np.uint8], int] | None:
        found = correct(store, cell)
        return None if found is None else (np.packbits(found), len(found))

    def unpacked(cell: str) -> NDArray[np.bool_] | None:
        found = packed(cell)
        return None if found is None else np.unpackbits(found[0], count=found[1]).astype(np.bool_)

    return unpacked
