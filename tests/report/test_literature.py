"""The literature: entries of exactly what was used; nothing is left out unseen."""

from __future__ import annotations

import re

import pytest

from oneticket.lab.spec.arms import ARM_SOURCES
from oneticket.methods import METHODS, PRETRAININGS
from oneticket.models import MODELS
from oneticket.pruning import ALLOCATIONS, CONTROLS, CRITERIA
from oneticket.report.literature import ALWAYS, bibtex
from oneticket.weights import DRAWS, NORMS, RESCALINGS

REGISTRIES = (CRITERIA, ALLOCATIONS, CONTROLS, DRAWS, NORMS, RESCALINGS, METHODS, PRETRAININGS, MODELS)
KINDS = {
    "arms": list(ARM_SOURCES.values()),
    **{f"{registry.kind}": [entry.source for entry in registry.entries()] for registry in REGISTRIES},
}


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


LACKING = {"Arora & Teuscher 2025"}
"""Papers whose entry could not be checked: their authors' first names are not at hand."""


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_the_registries_cite_has_an_entry(kind: str) -> None:
    cited = {
        part.strip() for source in KINDS[kind] for part in source.split(";") if re.search(r"\b(19|20)\d\d\b", part)
    }
    lacking = {line for line in bibtex(cited).splitlines() if line.startswith("% also used")}
    assert {line for line in lacking if not any(paper in line for paper in LACKING)} == set()
    assert cited
