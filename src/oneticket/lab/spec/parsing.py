"""Parsing: an experiment file → tables → typed structs; errors name the key, the expected value, the nearest word."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from oneticket.conversion import joined, refusal
from oneticket.errors import InputError, nearest

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of an experiment file; InputError if the file is missing or can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [str(p.name) for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise InputError(
            "no such file", where=str(path), expected="an experiment file", nearest=nearest(path.name, beside)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the file cannot be read ({error})", where=str(path), expected="an experiment file") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the file is not valid TOML: {error}", where=str(path)) from None


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


def refuse_unwritable(raw: Any, where: str = "") -> None:
    """Refuse values that TOML allows, but a description cannot hold.

    These are control characters, numbers that are not finite, and whole numbers of more than 64 bits.
    """
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            refuse_unwritable(key, joined(where, ascii(key)[1:-1]))
            refuse_unwritable(value, joined(where, key))
    elif isinstance(raw, list | tuple):
        for number, value in enumerate(raw):
            refuse_unwritable(value, f"{where}[{number}]")
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
