"""Parsing: an experiment file → tables → typed structs; errors name the key, the expected value, the nearest word."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from oneticket.conversion import joined, refusal
from oneticket.errors import InputError, nearest

T = TypeVar("T")

MOST_BYTES, DEEPEST = 2**20, 16
"""Maximum size of an experiment file in bytes, and of the depth of its tables and lists."""

_DEEP_KEY = re.compile(
    r"""(?<![\w"'-])(?:(?:[\w-]++|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){%d}""" % DEEPEST  # noqa: UP031
)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of an experiment file; InputError if the file is missing or can't be read."""
    try:
        text = _text_of(path)
    except FileNotFoundError:
        beside = [str(p.name) for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise InputError(
            "no such file", where=str(path), expected="an experiment file", nearest=nearest(path.name, beside)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the file cannot be read ({error})", where=str(path), expected="an experiment file") from None
    if _DEEP_KEY.search(text):  # the time that tomllib takes for a key grows with its square
        raise InputError("a key has too many dots", where=str(path), expected=f"tables at most {DEEPEST} deep")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError("is nested too deeply", where=str(path), expected=f"at most {DEEPEST} levels") from None
    except ValueError as error:  # also a whole number with thousands of digits
        raise InputError(f"the file is not valid TOML: {error}", where=str(path)) from None


def _text_of(path: Path) -> str:
    size = path.stat().st_size
    if path.exists() and not path.is_file():
        raise InputError("cannot be read (it is not a file)", where=str(path), expected="an experiment file")
    if size > MOST_BYTES:
        raise InputError(f"has {size} bytes", where=str(path), expected=f"at most {MOST_BYTES}")
    return path.read_text(encoding="utf-8")


def convert(raw: Any, kind: type[T], where: str = "") -> T:
    """``raw`` as ``kind``, with every default in the type that its field declares.

    Parameters
    ----------
    raw : the content of a table.
    kind : the type to convert to.
    where : the place of ``raw`` in the file, such as ``recipe.sgd``.

    Raises
    ------
    InputError : an invalid value, placed at its key.
    """
    try:
        value = msgspec.convert(raw, kind)
        # Converted twice, so that 160 and 160.0 do not differ, whether a default or an integer was given for a float.
        return msgspec.convert(msgspec.to_builtins(value), kind)
    except msgspec.ValidationError as error:
        raise refusal(error, raw, kind, where) from None


def refuse_unwritable(raw: Any, where: str = "", depth: int = 0) -> None:
    """Refuse values that TOML allows, but a description cannot hold.

    These are control characters, numbers that are not finite, whole numbers of more than 64 bits, and tables and lists
    that are nested more than :data:`DEEPEST` deep.
    """
    if depth > DEEPEST:
        raise InputError("is nested too deeply", where=where, expected=f"at most {DEEPEST} levels")
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            refuse_unwritable(key, joined(where, ascii(key)[1:-1]))
            refuse_unwritable(value, joined(where, key), depth + 1)
    elif isinstance(raw, list | tuple):
        for number, value in enumerate(raw):
            refuse_unwritable(value, f"{where}[{number}]", depth + 1)
    elif isinstance(raw, str) and (strange := [letter for letter in raw if not _printable(letter)]):
        raise InputError(
            f"the control character U+{ord(strange[0]):04X}", where=where, expected="text without control characters"
        )
    elif isinstance(raw, float) and not math.isfinite(raw):
        raise InputError(f"{raw} is not finite", where=where, expected="a finite number")
    elif isinstance(raw, int) and not -(2**63) <= raw < 2**63:
        raise InputError("the number has more than 64 bits", where=where, expected="a number from -2^63 to 2^63 - 1")


def _printable(letter: str) -> bool:
    return ord(letter) >= 0x20 and not 0x7F <= ord(letter) < 0xA0 and not 0xD800 <= ord(letter) < 0xE000


def split_role(text: str) -> tuple[str, str]:
    """``fashion@sgd`` → (``fashion``, ``sgd``)."""
    data, at, recipe = text.partition("@")
    if not (data and at and recipe):
        raise InputError(f"'{text}' is not a valid source or target", expected="data@recipe, such as fashion@sgd")
    return data, recipe
