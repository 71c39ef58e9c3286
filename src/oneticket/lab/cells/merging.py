"""Merging: the cells and tables of several stores in one; each file is compared with its digest on the way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from oneticket.errors import InputError
from oneticket.lab.cells.durable import make_folder, sync, sync_all
from oneticket.lab.cells.store import Store
from oneticket.lab.cells.verification import check_files

MOST_NAMED = 5
"""Cells that a refusal names."""


class Merged(msgspec.Struct, frozen=True):
    """What a merge has done.

    Parameters
    ----------
    cells : finished cells that were added.
    known : finished cells that were there already, from an earlier merge or another of the stores.
    tables : experiments whose table was added or replaced by a larger one.
    """

    cells: int
    known: int
    tables: int


def merge(sources: Sequence[Path], into: Path, *, copy: bool = False) -> Merged:
    """Join stores: every finished cell and every table of ``sources`` is in the store ``into`` afterwards.

    Cells are hard-linked where the file system can, and copied elsewhere. What would be a contradiction is refused
    before anything is written. A merge that was interrupted goes on when it is called again, and of two merges into one
    store the second waits for the first. Cells that are being computed, and claims on them, stay where they are.

    Parameters
    ----------
    sources : folders of stores, which are only read.
    into : the folder of the store to write; it is made where it is missing, and may be one that a run is filling.
    copy : whether to copy the files, so that the stores share none.

    Raises
    ------
    InputError : a folder is not a store, is ``into`` itself, or holds a damaged cell or one without digests; two stores
        have different results for one cell, or different tables for one experiment.
    """
    _refuse_the_same(sources, into)
    stores = [Store.open(source) for source in sources]
    target = Store.open(into, create=True)
    with FileLock(into / "merging.lock"):
        seen = _compared([target, *stores])
        tables = _tables([target, *stores])
        staging = into / "working" / "merging"
        shutil.rmtree(staging, ignore_errors=True)  # what an interrupted merge left
        added = sum(_add(store, cell, target, staging, copy=copy) for store in stores for cell in _cells(store))
        for store in stores:
            _add_failures(store, target)
        known = {content["name"]: content for content in target.experiments()}
        changed = [content for name, content in tables.items() if known.get(name) != content]
        for content in changed:  # last: a table says that its cells are there
            target.write_experiment(content["name"], content)
        shutil.rmtree(staging, ignore_errors=True)
    return Merged(cells=added, known=len(seen) - added, tables=len(changed))


def _refuse_the_same(sources: Sequence[Path], into: Path) -> None:
    for source in sources:
        if source.resolve() == into.resolve():
            raise InputError("is merged into itself", where=str(source), expected="another folder as --into")
        if source.resolve() in into.resolve().parents:
            raise InputError(f"lies inside the store {source}", where=str(into), expected="a folder outside of it")


def _cells(store: Store) -> Iterator[str]:
    for folder in sorted((store.root / "cells").glob("*/*")):
        if folder.name[:2] == folder.parent.name and store.has(folder.name):
            yield folder.name


def _compared(stores: Sequence[Store]) -> set[str]:
    """The cells of all stores but the first; refused where two have other results for one cell."""
    results: dict[str, tuple[Store, Any]] = {}
    seen: set[str] = set()
    differ: list[tuple[str, Store, Store]] = []
    for place, store in enumerate(stores):
        for cell in _cells(store):
            found = _result(store, cell)
            first, result = results.setdefault(cell, (store, found))
            if result != found:
                differ.append((cell, first, store))
            if place:
                seen.add(cell)
    if differ:
        cell, first, second = differ[0]
        names = ", ".join(name[:12] for name, _, _ in differ[:MOST_NAMED])
        more = f" and {len(differ) - MOST_NAMED} others" if len(differ) > MOST_NAMED else ""
        raise InputError(
            f"{first.root} and {second.root} have different results for {len(differ)} "
            f"cell{'s' if len(differ) > 1 else ''}, {names}{more}",
            where=str(second.folder(cell)),
            expected="equal results: stores that were computed on the same kind of machine, or that share no training",
        )
    return seen


def _result(store: Store, cell: str) -> Any:
    """What must be equal where two stores have a cell: its outcome and its tensors, not the time that it took."""
    record = store.read(cell)
    files = record.get("files")
    if files is None:
        remedy = f"`oneticket store verify {store.root}`, which gives them digests, before the merge"
        raise InputError("has no digests: an earlier version wrote it", where=str(store.folder(cell)), expected=remedy)
    return record["outcome"], {name: digest for name, digest in files.items() if name.endswith(".safetensors")}


def _add(store: Store, cell: str, target: Store, staging: Path, *, copy: bool) -> bool:
    """Put a whole cell into the target with one rename; False if it has it."""
    if target.has(cell):
        return False
    folder, beside, home = store.folder(cell), staging / cell, target.folder(cell)
    beside.mkdir(parents=True)
    for path in folder.iterdir():
        if not path.name.endswith(".writing"):
            _put(path, beside / path.name, copy=copy)
    check_files(beside, store.read(cell), named=folder)
    sync_all([*beside.iterdir(), beside])
    make_folder(home.parent)
    try:
        os.rename(beside, home)
    except OSError:
        if not target.has(cell):  # otherwise a run has finished it meanwhile
            raise
        return False
    sync(home.parent)
    return True


def _put(path: Path, beside: Path, *, copy: bool) -> None:
    if not copy:
        with suppress(OSError):  # another file system, or one without hard links
            os.link(path, beside)
            return
    shutil.copy2(path, beside)


def _add_failures(store: Store, target: Store) -> None:
    """The reasons why cells failed that are finished nowhere."""
    for path in sorted((store.root / "failures").glob("*")):
        there = target.root / "failures" / path.name
        if path.suffix in (".json", ".txt") and not target.has(path.stem) and not there.exists():
            shutil.copy2(path, there)


# -- tables of experiments ------------------------------------------------------------------------------------------
def _tables(stores: Sequence[Store]) -> dict[str, dict[str, Any]]:
    """The table of each experiment over all stores."""
    found: dict[str, tuple[Store, dict[str, Any]]] = {}
    for store in stores:
        for content in store.experiments():
            name = content.setdefault("name", "")
            first, known = found.get(name, (store, content))
            found[name] = first, _joined(known, content, first, store)
    return {name: content for name, (_, content) in found.items()}


def _joined(known: dict[str, Any], other: dict[str, Any], first: Store, second: Store) -> dict[str, Any]:
    """The larger of two tables of one name, with the claims of both; refused where neither holds the other."""
    if known is other:
        return known
    mine, theirs = _rows(known), _rows(other)
    if not (mine <= theirs or theirs <= mine):
        raise InputError(
            f"has another experiment called '{known['name']}' than {first.root}",
            where=str(second.root),
            expected="different names for different experiments, or tables of which one holds the rows of the other",
        )
    larger = other if len(theirs) > len(mine) else known
    registered = _registered(known.get("registered", {}), other.get("registered", {}))
    return {**larger, "registered": registered} if registered else larger


def _rows(content: Mapping[str, Any]) -> set[str]:
    return {str(sorted(zip(content["columns"], values, strict=True))) for values in content["rows"]}


def _registered(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The claims that were ever made in either store; of one made in both, when more networks were there."""
    both = dict(mine)
    for name, entry in theirs.items():
        if name not in both or entry["there"] > both[name]["there"]:
            both[name] = entry
    return both
