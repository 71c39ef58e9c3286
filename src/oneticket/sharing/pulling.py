"""Pulling: a ticket from a place, compared with the digests of its index and with its own checksum."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from oneticket.errors import DamagedTicket, InputError, TicketError
from oneticket.sharing.index import NAME, Entry, read_index
from oneticket.sharing.places import Place
from oneticket.ticket import Ticket, Verification
from oneticket.ticket.format import decode, write

MOST = 64 * 2**30
"""Bytes of a ticket that no index describes; tickets of a billion weights have a tenth of it."""


class Pulled(NamedTuple):
    """A ticket that was pulled: its entry (None for a file without an index), and what its verification found."""

    entry: Entry | None
    data: bytes
    sha256: str
    verification: Verification


def pull(place: Place, *, name: str | None = None, file: str | None = None, sha256: str | None = None) -> Pulled:
    """Read a ticket from a place and check it completely; nothing is written, built or run.

    Parameters
    ----------
    place : Place
        Where its index lies.
    name : str, optional
        Which ticket of the index; not needed where there is one.
    file : str, optional
        The name of a ticket file of the place, instead of what the index lists.
    sha256 : str, optional
        The digest that the file must have: one that came another way than the file.

    Raises
    ------
    InputError
        When the place does not list the ticket.
    DamagedTicket
        When the file does not agree with the index, with ``sha256`` or with its own checksum.
    TicketError
        When the place cannot be read.
    """
    entry = None
    if file is None:
        index = read_index(place)
        if index is None:
            expected = f"{NAME}, which `oneticket ticket push` writes, or the address of a ticket file"
            raise TicketError("it holds no shared tickets", where=place.where, expected=expected)
        entry = index.entry(name, place.where)
        file = entry.file
    where = f"{place.where}/{file}"
    data = place.read(file, entry.bytes if entry is not None else MOST)
    if data is None:
        raise TicketError("the file does not exist", where=where, expected="a ticket file")
    found = hashlib.sha256(data).hexdigest()
    for wanted, of in ((sha256, "the digest asked for"), (entry.sha256 if entry else None, "the index")):
        if wanted is not None and wanted.lower() != found:
            raise DamagedTicket(f"its SHA-256 is {found}, not that of {of}", where=where, expected=wanted)
    contents, verification = decode(data, where)
    try:
        Ticket(*contents)
    except InputError as error:
        raise DamagedTicket(f"the ticket is damaged: {error}", where=where) from error
    if entry is not None and entry.checksum != verification.checksum:
        raise DamagedTicket("its checksum is not that of the index", where=where, expected=entry.checksum)
    return Pulled(entry, data, found, verification)


def save(pulled: Pulled, to: str | os.PathLike[str], *, force: bool = False) -> bool:
    """Write a pulled ticket to a file, whole or not at all; False where that file has this content already.

    Raises InputError for a file with other content, unless ``force``, and where it cannot be written.
    """
    target = Path(to)
    if target.is_file():
        if target.read_bytes() == pulled.data:
            return False
        if not force:
            raise InputError("the file has other content", where=str(target), expected="--force, or another --to")
    write(target, pulled.data)
    return True
