"""The literature: entries of exactly what was used; nothing is left out unseen."""

from __future__ import annotations

import re

from oneticket.lab.spec.arms import ARM_SOURCES
from oneticket.report.literature import ALWAYS, bibtex


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)


def test_an_entry_is_there_iff_it_is_cited() -> None:
    assert keys(bibtex(["Lee et al. 2019, §4.1"])) == [*keys(bibtex([]))[:2], "lee2019snip", *keys(bibtex([]))[2:]]
    assert len(keys(bibtex([]))) == len(ALWAYS)
    assert keys(bibtex(["Han et al. 2015; Renda et al. 2020"])) != keys(bibtex(["Han et al. 2015"]))


def test_a_source_without_an_entry_is_named() -> None:
    assert "% also used, without an entry here: Nobody 1999" in bibtex(["Nobody 1999"])


def test_every_entry_is_whole_and_its_key_its_own() -> None:
    text = bibtex(ARM_SOURCES.values())
    assert len(set(keys(text))) == len(keys(text)) > 20
    for entry in text.split("\n\n"):
        if entry.startswith("@"):
            assert entry.count("{") == entry.count("}")
            assert re.search(r"^  title = \{.+\},$", entry, re.MULTILINE)
            assert re.search(r"^  year = \{\d{4}\},$", entry, re.MULTILINE)
