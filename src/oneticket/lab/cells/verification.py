"""Verification of a store: every byte of its cells and tables compared with its digest; what is damaged put aside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import safe_open

from oneticket.errors import InputError
from oneticket.lab.cells.durable import make_folder, sync, write_whole
from oneticket.lab.cells.marker import STORE_VERSION, version_of, write_marker
from oneticket.lab.cells.records import digest_of_file, sealed
from oneticket.lab.cells.store import Store

RECORD = "cell.json"


class Damage(msgspec.Struct, frozen=True):
    """A damaged file or folder, what is wrong with it, and where it was moved."""

    path: str
    fault: str
    moved: str | None = None


class Verified(msgspec.Struct, frozen=True):
    """The state of a store.

    Parameters
    ----------
    cells, tables : what is whole.
    digested : how many of them were written before there were digests, and have one now.
    damaged : what is not whole.
    """

    cells: int
    tables: int
    digested: int
    damaged: tuple[Damage, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing damaged is left in its place."""
        return all(damage.moved for damage in self.damaged)


def verify(root: Path, *, repair: bool = False) -> Verified:
    """Compare every file of every finished cell, and every table, with its digest.

    Cells and tables of earlier versions have no digest: they get one, after their files were read and their numbers of
    weights compared. Once everything has one, the store has the version that expects them.

    Parameters
    ----------
    root : the folder of the store.
    repair : whether to move what is damaged into ``damaged/``, so that a run computes it again.

    Raises
    ------
    InputError : ``root`` is not a store, or can't be read or written.
    """
    store = Store.open(root)
    damaged: list[Damage] = []
    counts = {"cells": 0, "tables": 0, "digested": 0}

    def judged(kind: str, place: Path, check: Callable[[Store, Path], bool]) -> None:
        try:
            counts["digested"] += check(store, place)
            counts[kind] += 1
        except InputError as error:
            moved = _moved(root, place) if repair else None
            damaged.append(Damage(str(error.where), error.what, str(moved) if moved else None))

    try:
        for cell in sorted((root / "cells").glob("*/*")):
            judged("cells", cell, _check_cell)
        for table in sorted((root / "experiments").glob("*.json")):
            judged("tables", table, _check_table)
        found = Verified(**counts, damaged=tuple(damaged))
        if found.sound and version_of(root) != STORE_VERSION:
            write_marker(root, STORE_VERSION)
    except OSError as error:
        raise InputError(f"can't be verified ({error.strerror}: {error.filename})", where=str(root)) from None
    return found


def _check_cell(store: Store, folder: Path) -> bool:
    """Check a finished cell; whether it was given digests. InputError if it is damaged."""
    identity = folder.name
    if store.folder(identity) != folder or not folder.is_dir():
        raise InputError("is not a cell: its name and its place do not fit", where=str(folder))
    record = store.read(identity)
    if record.get("files") is not None:
        check_files(folder, record)
        return False
    wanted = _expected(record, _names_in(folder))
    _check_names(folder, wanted, folder)
    found = {name: digest_of_file(folder / name) for name in sorted(wanted)}
    _check_contents(folder, record)
    write_whole(folder / RECORD, sealed({**record, "files": found}))
    return True


def check_files(folder: Path, record: Mapping[str, Any], *, named: Path | None = None) -> None:
    """Compare the files of a cell with the digests in its record; InputError if one is damaged, missing or foreign.

    Parameters
    ----------
    folder : where the files are.
    record : the content of the ``cell.json``.
    named : the folder that an error names, if it is another.
    """
    files, place = record["files"], named or folder
    _check_names(folder, set(files), place)
    for name, digest in files.items():
        if digest_of_file(folder / name) != digest:
            raise InputError("is damaged (its content does not agree with its digest)", where=str(place / name))


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".writing")} - {RECORD}


def _check_names(folder: Path, wanted: set[str], place: Path) -> None:
    for name in sorted(_names_in(folder) ^ wanted):
        fault = "is missing" if name in wanted else "is damaged (it is not a file of this cell)"
        raise InputError(fault, where=str(place / name))


def _expected(record: Mapping[str, Any], there: set[str]) -> set[str]:
    """The files that a cell without digests must have."""
    wanted = {"history.jsonl"}
    if "diverged" in record["outcome"]:
        return wanted
    moments = record["description"].get("snapshots", ())
    kept = {f"{what}-{moment}.safetensors" for moment in moments for what in ("weights", "optimizer")}
    return wanted | {"masks.safetensors", "weights-end.safetensors"} | kept


def _check_contents(folder: Path, record: Mapping[str, Any]) -> None:
    """Read the files of a cell without digests: what can't be read, or contradicts its record, is damaged."""
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".jsonl":
                for line in path.read_bytes().splitlines():
                    msgspec.json.decode(line)
            if path.suffix == ".safetensors":
                kept = _kept(path)
                if path.name == "masks.safetensors" and kept != record["outcome"]["kept"]:
                    raise ValueError(f"it keeps {kept} weights, the record says {record['outcome']['kept']}")
        except Exception as error:  # what readers make of damaged files is not documented
            raise InputError(f"is damaged ({error})", where=str(path)) from None


def _kept(path: Path) -> int:
    """The number of bits set in a file of masks; of other files, only the header is read."""
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["oneticket"])
        bits = (np.unpackbits(file.get_tensor(n), count=int(np.prod(s))) for n, s in facts.get("shapes", {}).items())
        return sum(int(found.sum()) for found in bits)


def _check_table(store: Store, path: Path) -> bool:
    """Check the table of an experiment; whether it was given a digest. InputError if it is damaged."""
    (content,) = store.experiments(path.stem)
    text = sealed(content)
    if path.read_text(encoding="utf-8") == text:
        return False
    write_whole(path, text)
    return True


def _moved(root: Path, place: Path) -> Path:
    """Move a damaged cell or table into ``damaged/``."""
    home = root / "damaged"
    make_folder(home)
    target = next(path for path in _names(home, place.name) if not path.exists())
    os.rename(place, target)
    sync(home)
    sync(place.parent)
    return target


def _names(home: Path, name: str) -> Iterator[Path]:
    number = 1
    while True:
        yield home / (name if number == 1 else f"{name}.{number}")
        number += 1
