"""The literature of what was used, as BibTeX."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files

ALWAYS = ("Frankle & Carbin 2019", "Morcos et al. 2019", "Student 1908", "Holm 1979")
"""What every table of tickets builds on: its question, and its statistics."""


def bibtex(sources: Iterable[str]) -> str:
    """The entries that these sources cite, and those that every table needs, in the order of the file.

    Parameters
    ----------
    sources : Iterable[str]
        Where arms, criteria, … come from: ``Lee et al. 2019, §4.1``, also several of them, separated by ``;``.

    Returns
    -------
    str
        A source without an entry stands at the end as a comment, so that nothing is left out unseen.
    """
    cited = [part.strip() for source in (*ALWAYS, *sources) for part in source.split(";") if part.strip()]
    found = [entry for name, entry in _entries().items() if any(name in source for source in cited)]
    lacking = dict.fromkeys(source for source in cited if not any(name in source for name in _entries()))
    return "\n".join([*found, *(f"% also used, without an entry here: {source}\n" for source in lacking)])


@cache
def _entries() -> dict[str, str]:
    """How an entry is cited → the entry."""
    text = files(__package__).joinpath("literature.bib").read_text("utf-8")
    parts = [part.partition("\n") for part in text.split("% ")[1:]]
    return {name.strip(): entry.strip() + "\n" for name, _, entry in parts}
