"""Records: the JSON files of a store; each carries the SHA-256 of its own content under ``sha256``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from oneticket.identity import canonical_json, digest, digest_of_text

SEAL = "sha256"
CORRECT = "correct.bin"
"""Which test images a network classifies rightly: a bit for each, in their order, as numpy.packbits packs them."""


def _seal(digest: str) -> str:
    return f',"{SEAL}":"{digest}"}}\n'


_TAIL = len(_seal("0" * 64))


class Named(msgspec.Struct):
    """The part of a ``cell.json`` that the cell is named after."""

    description: msgspec.Raw


class Figures(Named):
    """The part of a ``cell.json`` that a table needs."""

    outcome: dict[str, Any]
    cost: dict[str, Any]


class _Search(msgspec.Struct):
    criterion: str = ""
    allocation: str = ""
    rewind: str = ""
    prune: float | None = None


class _Ticket(msgspec.Struct):
    dense: str
    previous: str
    search: _Search = msgspec.field(default_factory=_Search)


class _Start(msgspec.Struct):
    mask: str = ""
    allocation: str = ""
    ticket: _Ticket | None = None
    values: _Ticket | None = None
    pretrained: str | None = None
    maker: str | None = None


class Begun(msgspec.Struct):
    """The part of a description that says which cells its cell builds on, and how its ticket was searched for."""

    start: _Start

    @property
    def parents(self) -> tuple[str, ...]:
        """The cells whose files the cell reads."""
        tickets = [ticket for ticket in (self.start.ticket, self.start.values) if ticket is not None]
        cells = [cell for ticket in tickets for cell in (ticket.dense, ticket.previous)]
        others = [cell for cell in (self.start.pretrained, self.start.maker) if cell is not None]
        return tuple(dict.fromkeys([*cells, *others]))

    @property
    def search(self) -> dict[str, Any]:
        """The columns ``criterion``, ``allocation``, ``k``, ``prune``: of the ticket's search, or of a mask alone."""
        if self.start.ticket is not None:
            search = self.start.ticket.search
            return {
                "criterion": search.criterion,
                "allocation": search.allocation,
                "k": search.rewind,
                "prune": search.prune,
            }
        criterion = self.start.mask if self.start.allocation else ""
        return {"criterion": criterion, "allocation": self.start.allocation, "k": "", "prune": None}


class Surroundings(Named):
    """The part of a ``cell.json`` that says where the cell was computed."""

    environment: dict[str, Any] = {}


FIGURES = msgspec.json.Decoder(Figures)
BEGUN = msgspec.json.Decoder(Begun)
SURROUNDINGS = msgspec.json.Decoder(Surroundings)


def sealed(content: Mapping[str, Any]) -> str:
    """The text of a record: ``content`` as canonical JSON, and last in it the digest of the rest."""
    text = canonical_json(content)
    return text[:-1] + _seal(digest_of_text(text))


def check_seal(data: bytes) -> bool:
    """Check that a record agrees with its digest; False for one that has none, as those of earlier versions.

    Raises ValueError for a record that is damaged.
    """
    # As `sealed` writes it, the rest is canonical JSON without being decoded: a table reads thousands of records.
    if data[-_TAIL:] == _seal(hashlib.sha256(data[:-_TAIL] + b"}").hexdigest()).encode():
        return True
    if f'"{SEAL}"'.encode() not in data:
        return False
    content = _content(data)
    if SEAL not in content:
        return False
    seal = content.pop(SEAL)
    if digest(content) != seal:
        raise ValueError("its content does not agree with its digest")
    return True


def read_sealed(data: bytes) -> tuple[dict[str, Any], bool]:
    """The content of a record without its digest, and whether it had one; ValueError for a damaged one."""
    had = check_seal(data)
    content = _content(data)
    content.pop(SEAL, None)
    return content, had


def read_table(data: bytes) -> tuple[dict[str, Any], bool]:
    """The content of a table, and whether it has a digest; ValueError for a damaged one."""
    content, has_digest = read_sealed(data)
    columns, rows = content.get("columns"), content.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list) or not isinstance(content.get("cells", []), list):
        raise ValueError("it lacks columns or rows")
    if any(not isinstance(row, list) or len(row) != len(columns) for row in rows):
        raise ValueError("its rows do not have its columns")
    return content, has_digest


def bytes_of(path: str) -> bytes:
    """The bytes of a record."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def digest_of_file(path: Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
        canonical_json(content).encode()  # refuses NaN and broken Unicode, which no record has
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a table")
    return content
