"""Pushing: a ticket, its card and its entry in the index, written to a place."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from oneticket.errors import InputError
from oneticket.sharing.card import CardFacts, card
from oneticket.sharing.index import NAME, Entry, Index, check_name, read_index, stem_of
from oneticket.sharing.places import Place
from oneticket.sharing.pulling import MOST
from oneticket.ticket import Ticket
from oneticket.ticket.format import decode, read_bytes

FILE, CARD = "ticket.safetensors", "README.md"


class Pushed(NamedTuple):
    """A ticket that was pushed: its entry, and the files that were written, none where all were there."""

    entry: Entry
    written: tuple[str, ...]


def push(
    ticket_file: str | os.PathLike[str],
    place: Place,
    *,
    name: str | None = None,
    license: str = "",
    results: str = "",
    citation: str = "",
    force: bool = False,
) -> Pushed:
    """Write a ticket file, a card and an index to a place; the index comes last, and names only what is there.

    Parameters
    ----------
    ticket_file : path
        A ticket file; it is verified first.
    place : Place
        Where to.
    name : str, optional
        The ticket's name in a zoo: it lies in a folder of this name, beside other tickets. Without it, the place
        is the folder of this one ticket.
    license : str, default ""
        Under which terms it is given, an SPDX identifier such as ``cc-by-4.0``.
    results : str, default ""
        Markdown about what its network reached beside its controls, for the card.
    citation : str, default ""
        BibTeX, for the card.
    force : bool, default False
        Whether files of other content are replaced.

    Raises
    ------
    InputError
        When the place has other content under these names, and when it cannot be written.
    TicketError
        When the file is not a sound ticket.
    """
    data = read_bytes(ticket_file)
    contents, verification = decode(data, str(ticket_file))
    ticket = Ticket(*contents)
    folder = "" if name is None else f"{check_name(name)}/"
    seen = tuple(dict.fromkeys(each.name for each in ticket.provenance.seen if each.name))
    entry = Entry(
        name=name or stem_of(ticket_file), file=folder + FILE, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(),
        checksum=verification.checksum, kept=verification.kept, total=verification.total,
        model=ticket.provenance.model, seen=seen, license=license,
    )  # fmt: skip
    facts = CardFacts(entry=entry, results=results, citation=citation, place=place.where)
    files = {folder + FILE: data, folder + CARD: card(ticket, facts).encode()}
    with place.changing():
        known = {written: place.read(written, MOST) for written in files}
        index = read_index(place)
        changed = {written: content for written, content in files.items() if known[written] != content}
        other = [written for written in changed if known[written] is not None]
        if index is not None and any(each.name == entry.name and each != entry for each in index.tickets):
            other.append(NAME)
        if other and not force:
            expected = "--force, which replaces them, or another place or --name"
            raise InputError(f"has other content in {', '.join(other)}", where=place.where, expected=expected)
        if (new := (index or Index()).with_entry(entry)) != index:
            changed[NAME] = new.encoded()
        if changed:
            place.write(changed, f"Ticket of {entry.model or 'a network'}, density {entry.density:.4g}")
    return Pushed(entry, tuple(changed))
