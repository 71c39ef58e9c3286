"""Verdicts in words: who won stands first; n, interval and what is lacking are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oneticket.report import as_lines, as_markdown, write_report
from oneticket.report.verdicts import FEW, told
from oneticket.verdicts import Place, Question, Verdict, judge


def place(where: str, differences: list[float]) -> Place:
    return Place(where, {i: 0.5 + d for i, d in enumerate(differences)}, dict.fromkeys(range(len(differences)), 0.5))


def verdict(*places: Place, says: str = "The ticket wins.", **known: Any) -> Verdict:
    return judge(Question(says, "winning − random", **({"direction": "better"} | known)), places)


GOOD, OPEN, BAD = [0.03, 0.031, 0.029], [0.001, -0.002, 0.004], [-0.03, -0.031, -0.029]


def test_a_supported_claim_says_so_first() -> None:
    lines = as_lines([verdict(place("digits@sgd, 5 %", GOOD))])
    assert lines[:2] == ["SUPPORTED: The ticket wins.", "  winning better than random, 1 place"]
    # 0.03 ± 4.303 × 0.001 / √3
    assert lines[2] == "  digits@sgd, 5 %: winning − random = +3.00 [+2.75, +3.25] points, n = 3, Holm's p < 0.001"


def test_a_contradicted_claim_names_the_place() -> None:
    lines = as_lines([verdict(place("here", GOOD), place("there", BAD))])
    assert lines[0].startswith("CONTRADICTED")
    assert lines[1].endswith("2 places, shown at 1")
    assert lines[3].startswith("  there: winning − random = −3.00 [−3.25, −2.75]")
    assert lines[3].endswith(", the opposite shown")


def test_an_open_claim_tells_what_would_decide() -> None:
    lines = as_lines([verdict(place("here", OPEN))])
    assert lines[0].startswith("NOT DECIDED")
    assert "seeds would" in lines[-1]


def test_equality_tells_its_margin() -> None:
    (entry,) = told([verdict(place("here", [0.001, 0.0, -0.001]), direction=None, margin=0.005)])
    assert (entry.word, entry.asks) == ("supported", "winning within ±0.5 points of random, 1 place")


def test_a_late_claim_is_marked() -> None:
    assert as_lines([verdict(place("here", GOOD), late="added after 3 of 9 networks were there")])[-1] == (
        "  added after 3 of 9 networks were there"
    )


def test_of_many_places_the_least_favourable_are_told_and_all_when_asked() -> None:
    places = [place(f"place {number}", GOOD) for number in range(8)]
    found = verdict(*places, place("the open one", OPEN))
    (entry,), (whole,) = told([found]), told([found], every=True)
    assert len(entry.lines) == FEW + 1
    assert entry.lines[-1] == "and 5 more places"
    assert any(line.startswith("the open one") for line in entry.lines)
    assert len(whole.lines) == 9


def test_experiments_are_named_where_there_are_several() -> None:
    two = [verdict(place("here", GOOD), experiment=name) for name in ("one", "two")]
    assert as_lines(two)[0] == "SUPPORTED: one: The ticket wins."
    assert as_lines(two[:1])[0] == "SUPPORTED: The ticket wins."


def test_markdown_is_a_list() -> None:
    assert as_markdown([verdict(place("here", GOOD))]).startswith(
        "- **Supported:** The ticket wins.\n  - winning better"
    )
    assert as_markdown([]) == ""


@pytest.fixture
def page(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    found = [verdict(place("here", GOOD), says="Winning <b>wins</b> & more."), verdict(place("here", BAD))]
    small = [row for row in rows if row["target"] == "fashion" and row["seed"] < 2]
    return write_report(small, tmp_path, verdicts=found, withdrawn=["Old."]).read_text("utf-8")


def test_the_page_begins_with_the_verdicts(page: str) -> None:
    assert page.index("What was claimed") < page.index("<figure>")
    assert 'class="folded verdict supported" open>' in page
    assert 'class="folded verdict contradicted" open>' in page
    assert "Of 2 claims 1 is supported, 1 is contradicted." in page
    assert "Winning &lt;b&gt;wins&lt;/b&gt; &amp; more." in page
    assert "taken out of the file:</i> Old." in page


def test_many_claims_are_folded_to_a_sentence_each(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    small = [row for row in rows if row["target"] == "fashion" and row["seed"] < 2]
    page = write_report(small, tmp_path, verdicts=[verdict(place("here", GOOD))] * 4).read_text("utf-8")
    assert page.count('class="folded verdict supported">\n<summary><b>Supported.</b>') == 4
    assert "Of 4 claims 4 are supported." in page


def test_a_page_without_claims_has_no_place_for_them(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    small = [row for row in rows if row["target"] == "fashion" and row["seed"] < 2]
    assert "What was claimed" not in write_report(small, tmp_path).read_text("utf-8")
