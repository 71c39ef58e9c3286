"""Surroundings: with how many threads, on which devices and in which precision the cells of a table were computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from oneticket.lab.cells.store import Store

_KINDS = {"threads": "numbers of threads", "device": "devices", "precision": "precisions"}


class Facts(NamedTuple):
    """What the record of a cell says of where it was computed, as text; the processor is known or not.

    ``mask`` is the mask of an arm, ``naturally_zero`` what was measured for it; empty where the record lacks them.
    """

    cell: str
    threads: str
    device: str
    precision: str
    knows_processor: bool
    mask: str = ""
    naturally_zero: str = ""


def facts_of(store: Store, experiment: str | None = None) -> list[Facts]:
    """The facts of all finished cells of one experiment or of all, those of its searches included.

    Each record is read once and neither checked nor decoded: that is done where its figures are read.

    Raises InputError for an experiment that the store lacks.
    """
    cells: dict[str, None] = {}
    for content in store.experiments(experiment):
        place = content["columns"].index("cell")
        cells |= dict.fromkeys([*(values[place] for values in content["rows"]), *content.get("cells", ())])
    there = store.finished(cells)
    found = []
    for cell in cells:
        if cell in there:
            with suppress(OSError):
                data = store.raw(cell)
                known = b'"processor"' in data
                threads, device, precision = (_value(data, key) for key in _KINDS)
                measured = (_value(data, key) for key in ("mask", "naturally_zero"))
                found.append(Facts(cell, threads, device, precision, known, *measured))
    return found


def mixtures(facts: Sequence[Facts]) -> list[str]:
    """A sentence for each of threads, devices and precisions of which the cells have several."""
    told = []
    for number, kind in enumerate(_KINDS.values(), start=1):
        counts = Counter(str(fact[number]) for fact in facts if fact[number])
        if len(counts) > 1:
            shares = ", ".join(
                f"{value} ({count} cell{'s' if count > 1 else ''})" for value, count in counts.most_common()
            )
            told.append(
                f"the cells behind this table were computed with different {kind}: {shares}. "
                "They differ by rounding, which training amplifies: part of a difference between arms may be due to it."
            )
    return told


def _value(data: bytes, key: str) -> str:
    """The value of the first occurrence of a key in a JSON text: a number or a plain text; empty without one."""
    word = f'"{key}":'.encode()
    start = data.find(word)
    if start < 0:
        return ""
    rest = data[start + len(word) : start + len(word) + 120].lstrip()
    if rest.startswith(b'"'):
        return rest[1:].partition(b'"')[0].decode(errors="replace")
    return rest.partition(b",")[0].partition(b"}")[0].strip().decode(errors="replace")
