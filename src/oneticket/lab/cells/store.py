"""The store: finished cells, named by the digest of their descriptions; readable without this package."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from oneticket.errors import InputError, unknown
from oneticket.identity import canonical_json, digest
from oneticket.lab.cells.claims import Busy, Claim, claimed, sweep
from oneticket.lab.cells.durable import make_folder, sync, sync_all, write_whole
from oneticket.lab.cells.marker import LOG, prepare, say_lost, version_of
from oneticket.lab.cells.marker import is_store as is_store
from oneticket.lab.cells.records import (
    BEGUN,
    FIGURES,
    SURROUNDINGS,
    Named,
    bytes_of,
    check_seal,
    digest_of_file,
    read_sealed,
    read_table,
    sealed,
)

_Part = TypeVar("_Part", bound=Named)


class Store:
    """A folder of cells.

    ``cells/ab/abcdef…/`` holds a finished cell and appears whole, by a rename; until then its files are in
    ``working/``. ``experiments/`` says which cell fills which row of which experiment's table. ``failures/`` says why a
    cell failed, with the stacks of its process if that crashed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claims: dict[str, Claim] = {}

    @classmethod
    def open(cls, root: Path, *, create: bool = False) -> Store:
        """Open the store at ``root``.

        Parameters
        ----------
        root : its folder.
        create : whether to make the store if it is missing, and to check that it can be written.

        Raises
        ------
        InputError : ``root`` is not a store, can't be read or written, or was written by a later version.
        """
        known = is_store(root)
        if not known and not create:
            raise InputError("is not a store of oneticket", where=str(root), expected="a folder that `run` created")
        lost = version_of(root) is None
        if lost and known:
            say_lost(root)
        if create:
            prepare(root, new_marker=lost)
            sweep(root / "leases", cls(root).has)
        return cls(root)

    # -- finished cells ------------------------------------------------------------------------------------------
    def folder(self, identity: str) -> Path:
        """The folder of the finished cell."""
        return self.root / "cells" / identity[:2] / identity

    def has(self, identity: str) -> bool:
        """Whether the cell is finished."""
        return os.path.exists(self._record(identity))

    def finished(self, identities: Iterable[str]) -> set[str]:
        """The finished ones of the cells ``identities``; the disk is asked only about cells that have a folder."""
        return {identity for identity in self.present(identities) if self.has(identity)}

    def present(self, identities: Iterable[str]) -> set[str]:
        """Those of the cells ``identities`` that have a folder; without ``cell.json`` in it, the cell is damaged."""
        there: dict[str, set[str]] = {}
        found = set()
        for identity in identities:
            shelf = identity[:2]
            if shelf not in there:
                try:
                    there[shelf] = set(os.listdir(f"{self.root}/cells/{shelf}"))
                except (FileNotFoundError, NotADirectoryError):
                    there[shelf] = set()
            if identity in there[shelf]:
                found.add(identity)
        return found

    def read(self, identity: str) -> dict[str, Any]:
        """The ``cell.json`` of a finished cell without its own digest; ``files`` has those of its other files."""
        path = self._record(identity)
        try:
            record, has_digest = read_sealed(bytes_of(path))
            self._expect_digest(has_digest)
            if any(key not in record for key in ("description", "outcome", "cost")):
                raise ValueError("it lacks description, outcome or cost")
            if digest(record["description"]) != identity:
                raise ValueError("its description is that of another cell")
        except (OSError, ValueError) as error:
            raise self.damaged(path, error) from None
        return record

    def figures(self, identity: str) -> dict[str, Any]:
        """Outcome and cost of a finished cell, in one dictionary; the rest of its file is not decoded."""
        known = self._decoded(identity, FIGURES)
        return known.outcome | known.cost

    def account(self, identity: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The figures of a finished cell with those of its search, and the cells that it builds on.

        Its file is read once.
        """
        known = self._decoded(identity, FIGURES)
        try:
            begun = BEGUN.decode(known.description)
        except ValueError as error:
            raise self.damaged(self._record(identity), error) from None
        return known.outcome | known.cost | begun.search, begun.parents

    def environment(self, identity: str) -> dict[str, Any]:
        """The environment in which a finished cell was computed; the rest of its file is not decoded."""
        return self._decoded(identity, SURROUNDINGS).environment

    def raw(self, identity: str) -> bytes:
        """The bytes of a finished cell's ``cell.json``, neither checked nor decoded; OSError if they can't be read."""
        return bytes_of(self._record(identity))

    def file(self, identity: str, name: str) -> Path:
        """The path of a file of a finished cell, whose bytes agree with the digest in ``cell.json``."""
        path = self.folder(identity) / name
        files = self.read(identity).get("files")
        try:
            if files is not None and name not in files:
                raise ValueError("its cell was finished without it")
            if files is not None and digest_of_file(path) != files[name]:
                raise ValueError("its content does not agree with its digest")
            if not path.is_file():
                raise ValueError("it is missing")
        except (OSError, ValueError) as error:
            raise self.damaged(path, error) from None
        return path

    def damaged(self, path: str | Path, error: object) -> InputError:
        """The error for a damaged file of a cell: it names the file, the fault and the remedy."""
        remedy = f"`oneticket store verify {self.root} --repair` moves the cell aside, and a new run computes it again"
        return InputError(f"is damaged ({error})", where=str(path), expected=f"a whole cell: {remedy}")

    def _decoded(self, identity: str, decoder: msgspec.json.Decoder[_Part]) -> _Part:
        path = self._record(identity)
        try:
            data = bytes_of(path)
            if not check_seal(data):
                self._expect_digest(False)
            part = decoder.decode(data)
            # In a sealed record, the bytes of the description are its canonical JSON.
            named = hashlib.sha256(part.description).hexdigest() == identity
            if not named and digest(msgspec.json.decode(part.description)) != identity:
                raise ValueError("its description is that of another cell")
        except (OSError, ValueError, RecursionError) as error:
            raise self.damaged(path, error) from None
        return part

    def _expect_digest(self, there: bool) -> None:
        if not there and not self._of_version_1:
            raise ValueError("it has lost its digest")

    @cached_property
    def _of_version_1(self) -> bool:
        """Whether records may lack digests."""
        return (version_of(self.root) or 1) < 2

    def _record(self, identity: str) -> str:
        # A string: for many thousands of cells, Path objects would take longer than reading the files.
        return f"{self.root}/cells/{identity[:2]}/{identity}/cell.json"

    # -- computing a cell ----------------------------------------------------------------------------------------
    @contextmanager
    def claimed(self, identity: str, on_lost: Callable[[], None] | None = None) -> Iterator[Path]:
        """A context with the working folder of a cell, which no other process may compute meanwhile.

        Parameters
        ----------
        identity : the cell.
        on_lost : called, from another thread, if the claim was not refreshed in time and another process took it.

        Raises
        ------
        Busy : another process is computing the cell.
        """
        with claimed(self.root / "leases", identity, on_lost) as claim:
            self._claims[identity] = claim
            working = self.root / "working" / identity
            working.mkdir(parents=True, exist_ok=True)
            try:
                yield working
            finally:
                del self._claims[identity]

    def check_claim(self, identity: str) -> None:
        """Raise Busy if the claim on a cell was taken over: another process writes its files now."""
        if identity in self._claims and not self._claims[identity].holds():
            raise Busy(f"cell {identity[:12]} was taken over by another process, which waited in vain for this one")

    def commit(self, identity: str, working: Path, record: Mapping[str, Any]) -> None:
        """Turn a working folder into the finished cell: everything on disk first, then one rename.

        Raises Busy if the claim on the cell was taken over meanwhile.
        """
        self.check_claim(identity)
        shutil.rmtree(working / "checkpoint", ignore_errors=True)
        files = {path.name: digest_of_file(path) for path in working.iterdir() if path.name != "cell.json"}
        (working / "cell.json").write_text(sealed({**record, "files": files}), encoding="utf-8")
        sync_all([*working.iterdir(), working])
        target = self.folder(identity)
        make_folder(target.parent)
        try:
            os.rename(working, target)
        except OSError:
            if self.has(identity):
                # Another process finished the same cell meanwhile: equal by construction, so its files stay.
                shutil.rmtree(working, ignore_errors=True)
            else:
                # What remains of a damaged cell.
                shutil.rmtree(target, ignore_errors=True)
                os.rename(working, target)
        for folder in (target.parent, target.parent.parent):  # the second is seldom new, and then takes no time
            sync(folder)
        (self.root / "failures" / f"{identity}.json").unlink(missing_ok=True)
        self.forget_stacks(identity)

    def discard(self, identity: str) -> None:
        """Remove the files of an unfinished cell."""
        shutil.rmtree(self.root / "working" / identity, ignore_errors=True)

    def note_failure(self, identity: str, label: str, reason: str) -> None:
        """Write down why a cell failed; a failure to write is ignored, so that the run goes on."""
        try:
            write_whole(self.root / "failures" / f"{identity}.json", canonical_json({"cell": label, "reason": reason}))
        except OSError:
            return

    def note_stacks(self, identity: str, text: str) -> Path | None:
        """Write the stacks of a crashed cell's process, ``text``, beside the reason why the cell failed.

        Returns the path of the file; None if there is no text or it can't be written, so that the run goes on.
        """
        path = self._stacks(identity)
        try:
            if text:
                write_whole(path, text)
        except OSError:
            return None
        return path if text else None

    def forget_stacks(self, identity: str) -> None:
        """Remove the stacks of an earlier crash: the cell was computed again and ended otherwise."""
        with suppress(OSError):
            self._stacks(identity).unlink()

    def _stacks(self, identity: str) -> Path:
        return self.root / "failures" / f"{identity}.txt"

    # -- experiments ---------------------------------------------------------------------------------------------
    def write_experiment(self, name: str, content: Mapping[str, Any]) -> None:
        """Write down which cell fills which row of an experiment's table."""
        write_whole(self.root / "experiments" / f"{name}.json", sealed({**content, "name": name}))

    def experiments(self, name: str | None = None) -> Iterator[dict[str, Any]]:
        """Every experiment that has been run in this store, by name, or only the one called ``name``."""
        found = sorted((self.root / "experiments").glob("*.json"))
        if name is not None and name not in (path.stem for path in found):
            raise unknown("experiment", name, [path.stem for path in found], where=str(self.root))
        for path in found:
            if name in (None, path.stem):
                yield self._table(path)

    def table(self, name: str) -> dict[str, Any] | None:
        """What an earlier run wrote down about an experiment; None if there is nothing, or nothing whole."""
        path = self.root / "experiments" / f"{name}.json"
        try:
            return self._table(path) if path.exists() else None
        except InputError as error:
            LOG.warning("%s %s; it is written anew", error.where, error.what)
            return None

    def _table(self, path: Path) -> dict[str, Any]:
        try:
            content, has_digest = read_table(path.read_bytes())
            self._expect_digest(has_digest)
            if content.get("name", path.stem) != path.stem:
                raise ValueError(f"it is the table of '{content['name']}'")
        except (OSError, ValueError) as error:
            remedy = "a table that `run` wrote: run the experiment again, which writes it anew"
            raise InputError(f"is damaged ({error})", where=str(path), expected=remedy) from None
        return content
