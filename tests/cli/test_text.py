"""Text from anywhere is made fit for a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oneticket.cli.text import harmless


@given(st.text())
def test_nothing_is_left_that_a_terminal_would_obey(text: str) -> None:
    shown = harmless(text)
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert harmless(shown) == shown


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("äé×→\n")))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_an_escape_sequence_is_shown() -> None:
    assert harmless("a\x1b[31mb\x00\ud800") == "a\\x1b[31mb\\x00\\ud800"
