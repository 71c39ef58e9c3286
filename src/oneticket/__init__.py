"""oneticket: find a winning ticket once, use it everywhere, know whether it really won.

>>> import oneticket as ot
>>> sorted(ot.__all__)
['Masks', 'Recipe', 'Ticket', 'compact', 'compare', 'find_ticket', 'train', 'transfer']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneticket.version import __version__ as __version__

if TYPE_CHECKING:
    from oneticket.comparing import compare
    from oneticket.finding import find_ticket, transfer
    from oneticket.masks import Masks
    from oneticket.ticket import Ticket
    from oneticket.training import Recipe, train
    from oneticket.training.compact import compact

__all__ = ["Masks", "Recipe", "Ticket", "compact", "compare", "find_ticket", "train", "transfer"]

_HOMES = {
    "Masks": "oneticket.masks",
    "Recipe": "oneticket.training",
    "Ticket": "oneticket.ticket",
    "compact": "oneticket.training.compact",
    "compare": "oneticket.comparing",
    "find_ticket": "oneticket.finding",
    "train": "oneticket.training",
    "transfer": "oneticket.finding",
}


def __getattr__(name: str) -> Any:
    import importlib

    # Loaded at first use: importing torch takes a second, and `oneticket --help` does not need it.
    if name == "data":
        return importlib.import_module("oneticket.data")
    if name not in _HOMES:
        raise AttributeError(f"module 'oneticket' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
