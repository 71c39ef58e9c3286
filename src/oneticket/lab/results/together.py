"""Several tables of results in one: each row says which store it is of, and what can't be compared is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from oneticket.errors import InputError
from oneticket.lab.cells.store import Store
from oneticket.lab.results.table import TidyRow

IN = " in "
"""Stands between an experiment and its store; names of experiments hold no spaces."""


def names_of(places: Sequence[Path]) -> list[str]:
    """A name for each store or file: its last word, or its whole path where several share that.

    Raises InputError for a place that is named twice.
    """
    short = [place.resolve().stem if place.is_file() else place.resolve().name for place in places]
    names = [str(place) if short.count(name) > 1 else name for place, name in zip(places, short, strict=True)]
    for name, place in zip(names, places, strict=True):
        if sum(place.resolve() == other.resolve() for other in places) > 1:
            raise InputError("is named twice", where=name, expected="each store once")
    return names


def together(tables: Mapping[str, Sequence[TidyRow]], places: Mapping[str, Path]) -> list[TidyRow]:
    """The rows of all tables; their experiments are called ``NAME in STORE``.

    Parameters
    ----------
    tables : the rows of each store or file, by its name.
    places : its folder or file.

    Raises
    ------
    InputError : two of them have other test images, or other data, under one name of a target.
    """
    known: dict[str, dict[str, tuple[str, Any]]] = {"numbers of test images": {}, "data": {}}
    for name, rows in tables.items():
        data = {} if places[name].is_file() else _data(Store(places[name]), rows)
        images = {row["target"]: row["test_images"] for row in rows if row.get("test_images") is not None}
        for what, found in (("numbers of test images", images), ("data", data)):
            for target, value in found.items():
                first, other = known[what].setdefault(target, (name, value))
                if other != value:
                    raise InputError(
                        f"{first} and {name} have different {what} called '{target}': {other} and {value}",
                        where=str(places[name]),
                        expected="the same test images under one name, or other names",
                    )
    return [{**row, "experiment": f"{row['experiment']}{IN}{name}"} for name, rows in tables.items() for row in rows]


def _data(store: Store, rows: Sequence[TidyRow]) -> dict[str, str]:
    """For each target, the fingerprint of its data and what was derived from it, of the first cell that says so."""
    found: dict[str, str] = {}
    for row in rows:
        if row["target"] not in found:
            with suppress(KeyError):
                about = store.read(row["cell"])["description"]["data"]
                steps = f" with {about['steps']}" if about.get("steps") else ""
                found[row["target"]] = f"fingerprint {about['fingerprint'][:16]}{steps}"
    return found
