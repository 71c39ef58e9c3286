"""The index of a place: which tickets lie there, under which names, with which digests."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec

from oneticket.errors import ForeignFile, InputError, TooNewTicket, unknown
from oneticket.sharing.places import Place

NAME = "index.json"
VERSION = 1
MOST = 16 * 2**20
"""Bytes that an index may have; one of a thousand tickets has half a million."""

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One ticket of a place.

    ``file`` is its path below the index, ``sha256`` the digest of the file, ``checksum`` that of its content, which
    ``oneticket ticket verify`` prints. The rest repeats what the ticket says itself; ``seen`` names the data it was
    trained on, ``license`` is "" where none was given.
    """

    name: Annotated[str, msgspec.Meta(pattern=f"^{_WORD}$")]
    file: Annotated[str, msgspec.Meta(pattern=rf"^{_WORD}(/{_WORD})*$")]
    bytes: Annotated[int, msgspec.Meta(ge=1)]
    sha256: _Digest
    checksum: _Digest
    kept: int
    total: int
    model: str = ""
    seen: tuple[str, ...] = ()
    license: str = ""

    @property
    def density(self) -> float:
        """The fraction of the prunable weights that is kept."""
        return self.kept / max(self.total, 1)


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """All tickets of a place, by name."""

    format: int = VERSION
    tickets: tuple[Entry, ...] = ()

    def with_entry(self, entry: Entry) -> Index:
        """The index with ``entry`` instead of the one of that name, if there is one."""
        others = [known for known in self.tickets if known.name != entry.name]
        return Index(tickets=tuple(sorted([*others, entry], key=lambda each: each.name)))

    def encoded(self) -> bytes:
        """The bytes of ``index.json``; equal indices give equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def entry(self, name: str | None, where: str) -> Entry:
        """The ticket of this name, or the only one; InputError with the nearest name otherwise."""
        if name is None and len(self.tickets) == 1:
            return self.tickets[0]
        names = [entry.name for entry in self.tickets]
        if not names:
            raise InputError("the index lists no ticket", where=where)
        if name is None:
            raise InputError(f"there are {len(names)} tickets", where=where, expected=f"--name {' or '.join(names)}")
        if name not in names:
            raise unknown("ticket", name, names, where=where)
        return next(entry for entry in self.tickets if entry.name == name)


def check_name(name: str) -> str:
    """``name`` if it can name a ticket of a place: letters, digits, ``.``, ``_`` and ``-``; InputError otherwise."""
    if not re.fullmatch(_WORD, name):
        raise InputError(f"'{name}' is not a valid name", where="--name", expected="letters, digits, '.', '_' and '-'")
    return name


def stem_of(file: str | os.PathLike[str]) -> str:
    """The name of a ticket without one: that of its file without the ending, or ``ticket``."""
    stem = Path(file).stem
    return stem if re.fullmatch(_WORD, stem) else "ticket"


def read_index(place: Place) -> Index | None:
    """The index of a place, None for a place without an index.

    Raises TooNewTicket for one of a later version, and ForeignFile for a file that is not such an index, or that names
    files outside of the place.
    """
    data = place.read(NAME, MOST)
    if data is None:
        return None
    where = f"{place.where}/{NAME}"
    try:
        raw = json.loads(data)
        version = raw["format"]
        if isinstance(version, int) and version > VERSION:
            expected = f"{VERSION} at most; install a newer oneticket"
            raise TooNewTicket(f"the index has version {version}", where=where, expected=expected)
        index = msgspec.convert(raw, Index)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, TooNewTicket):
            raise
        _foreign(where, str(error))
    if len({entry.name for entry in index.tickets}) < len(index.tickets):
        _foreign(where, "two tickets have one name")
    return index


def _foreign(where: str, reason: str) -> NoReturn:
    raise ForeignFile(f"this is not an index of tickets ({reason})", where=where, expected="one that `push` wrote")
