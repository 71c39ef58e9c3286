"""Tables with several rows a network, for figures: their columns, their CSV, and which networks they are about."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oneticket.errors import InputError
from oneticket.lab.cells.store import Store
from oneticket.lab.results.histories import COLUMNS as OF_HISTORIES
from oneticket.lab.results.histories import histories
from oneticket.lab.results.layers import COLUMNS as OF_LAYERS
from oneticket.lab.results.layers import layers
from oneticket.lab.results.overlaps import COLUMNS as OF_OVERLAPS
from oneticket.lab.results.overlaps import overlaps

Rows = Iterable[Mapping[str, Any]]
Made = Callable[[Store, Rows], list[dict[str, Any]]]

TABLES: dict[str, tuple[tuple[str, ...], Made]] = {
    "layers": (OF_LAYERS, layers),
    "movement": (OF_LAYERS, layers),
    "overlap": (OF_OVERLAPS, overlaps),
    "learning": (OF_HISTORIES, histories),
}
"""The columns of the table that a kind of figure is drawn of, and what makes it of a store and its tidy table."""

_WHOLE = frozenset(("seed", "place", "weights", "kept", "flipped", "epoch", "step"))
_NUMBERS = frozenset(
    (
        "density_asked", "distance", "norm", "overlap", "chance", "layer_chance", "lr", "train_loss", "val_accuracy",
        "val_loss",
    )
)  # fmt: skip


def as_csv(kind: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """The table of a kind of figure as comma-separated values; an absent value is empty, numbers are in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, TABLES[kind][0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def from_csv(kind: str, path: Path) -> list[dict[str, Any]]:
    """The inverse of :func:`as_csv`.

    Raises
    ------
    InputError
        For a file that is not such a table, with the place of what is wrong.
    """
    columns = TABLES[kind][0]
    expected = f"a table that `oneticket figure STORE --kind {kind} --table FILE` wrote"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, lines = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"can't be read ({error})", where=str(path), expected=expected) from None
    if lacking := [column for column in columns if column not in header]:
        raise InputError(f"has no column '{lacking[0]}'", where=str(path), expected=expected)
    return [
        {column: _typed(column, line[column], f"{path}, line {number}") for column in columns}
        for number, line in enumerate(lines, start=2)
    ]


def _typed(column: str, text: str | None, where: str) -> Any:
    if column not in _WHOLE | _NUMBERS:
        return text or ""
    if not text:
        return None
    try:
        return int(text) if column in _WHOLE else float(text)
    except ValueError:
        raise InputError(f"'{text}' is not a number", where=f"{where}, {column}", expected="a number") from None
