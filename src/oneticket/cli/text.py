"""Text from files and users, made safe for a terminal."""

from __future__ import annotations


def harmless(text: str) -> str:
    """``text`` with control characters, which could move a terminal's cursor or colour it, shown as escapes.

    >>> harmless("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def shortened(text: str, most: int = 4000) -> str:
    """``text`` with its middle left out where it has more than ``most`` letters, as a word from a file can have.

    >>> shortened("a" * 10 + "b" * 10, most=7)
    'aaa … bbb'
    """
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-(most // 2) :]}"
