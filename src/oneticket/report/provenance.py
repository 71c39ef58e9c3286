"""Provenance: what a table of results does not hold, so that somebody who is sent the page knows what was run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Provenance:
    """Where the networks of a table come from, in words and texts that a page shows as they are.

    Parameters
    ----------
    facts : Sequence of (str, Sequence of str)
        Terms such as ``versions`` with what is said of them, in the order of the page.
    files : Sequence of (str, str)
        Name and text of each experiment file.
    commands : Sequence of str
        What makes the table again, a command a line.
    methods : str
        The paragraph for the methods section of a paper.
    bibtex : str
        The literature of exactly what was used.
    """

    facts: Sequence[tuple[str, Sequence[str]]] = ()
    files: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()
    methods: str = ""
    bibtex: str = ""
