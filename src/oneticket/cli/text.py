"""Text from files and users, made safe for a terminal."""

from __future__ import annotations


def harmless(text: str) -> str:
    """``text`` with control characters, which could move a terminal's cursor or colour it, shown as escapes.

    >>> harmless("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
