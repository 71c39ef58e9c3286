"""Parsing: an experiment file → tables → typed structs; errors name the key, the expected value, the nearest word."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from oneticket.errors import InputError, nearest

T = TypeVar("T")

MOST_BYTES, DEEPEST = 2**20, 16
"""Maximum size of an experiment file in bytes, and of the depth of its tables and lists."""

_DEEP_KEY = re.compile(
    r"""(?<![\w"'-])(?:(?:[\w-]++|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){%d}""" % DEEPEST  # noqa: UP031
)
_PLACED = re.compile(r"(?P<what>.*) - at `(?:key in )?\$(?P<path>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_NO_CHOICE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
_OTHER_TYPE = re.compile(r"Expected `(.*)`, got `(.*)`", re.DOTALL)
_KINDS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list",
    "object": "a table", "null": "nothing",
}  # fmt: skip


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
        raise InputError(f"cannot be read ({error})", where=str(path), expected="an experiment file") from None
    if _DEEP_KEY.search(text):  # the time that tomllib takes for a key grows with its square
        raise InputError("a key has too many dots", where=str(path), expected=f"tables at most {DEEPEST} deep")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError("is nested too deeply", where=str(path), expected=f"at most {DEEPEST} levels") from None
    except ValueError as error:  # also a whole number with thousands of digits
        raise InputError(f"is not valid TOML: {error}", where=str(path)) from None


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
        raise _refusal(error, raw, kind, where) from None


def refuse_unwritable(raw: Any, where: str = "", depth: int = 0) -> None:
    """Refuse values that TOML allows, but a description cannot hold.

    These are control characters, numbers that are not finite, whole numbers of more than 64 bits, and tables and lists
    that are nested more than :data:`DEEPEST` deep.
    """
    if depth > DEEPEST:
        raise InputError("is nested too deeply", where=where, expected=f"at most {DEEPEST} levels")
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            refuse_unwritable(key, _joined(where, ascii(key)[1:-1]))
            refuse_unwritable(value, _joined(where, key), depth + 1)
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
        raise InputError("the number has more than 64 bits", where=where, expected="a smaller number")


def _printable(letter: str) -> bool:
    return ord(letter) >= 0x20 and not 0x7F <= ord(letter) < 0xA0 and not 0xD800 <= ord(letter) < 0xE000


def _refusal(error: msgspec.ValidationError, raw: Any, kind: Any, where: str) -> InputError:
    found = _PLACED.fullmatch(str(error))
    what, path = (found["what"], found["path"].lstrip(".")) if found else (str(error), "")
    place = _joined(where, path) or None
    if isinstance(error.__cause__, InputError):
        return error.__cause__.at(place) if place else error.__cause__
    parts = re.findall(r"[^.\[\]]+", path)
    if match := _UNKNOWN.fullmatch(what):
        keys = _keys(*_at(kind, raw, parts))
        return InputError(
            f"unknown key '{match[1]}'",
            where=place,
            expected=f"one of {', '.join(keys)}" if keys else "no keys here",
            nearest=nearest(match[1], keys),
        )
    if match := _MISSING.fullmatch(what):
        return InputError(f"the key '{match[1]}' is missing", where=place)
    if match := _NO_CHOICE.fullmatch(what):
        words = _choices(kind, raw, parts)
        word = match[1].strip("'\"")
        return InputError(
            f"{match[1]} is not a valid choice",
            where=place,
            expected=f"one of {', '.join(words)}",
            nearest=nearest(word, words),
        )
    if match := _OTHER_TYPE.fullmatch(what):
        expected, got = (" or ".join(_KINDS.get(word, word) for word in text.split(" | ")) for text in match.groups())
        return InputError(f"this is {got}", where=place, expected=expected)
    return InputError(what[0].lower() + what[1:], where=place)


def _joined(where: str, path: str) -> str:
    return f"{where}.{path}" if where and path and not path.startswith("[") else where + path


# -- the type at a place of the file ------------------------------------------------------------------------------
def _at(kind: Any, raw: Any, parts: Sequence[str]) -> tuple[Any, Any]:
    """The type and the value at the end of a path of keys and indices."""
    for part in parts:
        kind, raw = _inside(kind, raw, part)
    return kind, raw


def _inside(kind: Any, raw: Any, part: str) -> tuple[Any, Any]:
    value = raw[int(part)] if isinstance(raw, list | tuple) else raw.get(part) if isinstance(raw, Mapping) else None
    for member in _members(kind):
        if isinstance(raw, list | tuple) and get_origin(member) is tuple:
            types = get_args(member)
            return types[min(int(part), len(types) - 1)] if types[-1] is not Ellipsis else types[0], value
        if isinstance(raw, Mapping) and get_origin(member) is dict:
            return get_args(member)[1], value
    for struct in _structs(kind, raw):
        for field in msgspec.structs.fields(struct):
            if field.encode_name == part:
                return field.type, value
    return Any, value


def _members(kind: Any) -> Iterator[Any]:
    """The alternatives of a union; for any other type, the type itself."""
    if get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _members(member)
    else:
        yield kind


def _structs(kind: Any, raw: Any) -> list[type[msgspec.Struct]]:
    """The structs that may stand here; among tagged structs, only the one whose tag ``raw`` has."""
    structs = [m for m in _members(kind) if isinstance(m, type) and issubclass(m, msgspec.Struct)]
    return [s for s in structs if not s.__struct_config__.tag_field or _tag(s) == _said(s, raw)]


def _tag(struct: type[msgspec.Struct]) -> object:
    return struct.__struct_config__.tag


def _said(struct: type[msgspec.Struct], raw: Any) -> object:
    return raw.get(struct.__struct_config__.tag_field) if isinstance(raw, Mapping) else None


def _keys(kind: Any, raw: Any) -> list[str]:
    """The valid keys of a table."""
    keys: list[str] = []
    for struct in _structs(kind, raw):
        tag = struct.__struct_config__.tag_field
        keys += [*([tag] if tag else []), *(field.encode_name for field in msgspec.structs.fields(struct))]
    return keys


def _choices(kind: Any, raw: Any, parts: Sequence[str]) -> list[str]:
    """The valid words at a place: those of a Literal, or the tags of a table's alternatives."""
    here, _ = _at(kind, raw, parts)
    words = [str(word) for member in _members(here) if get_origin(member) is Literal for word in get_args(member)]
    if words or not parts:
        return words
    around, _ = _at(kind, raw, parts[:-1])
    structs = [m for m in _members(around) if isinstance(m, type) and issubclass(m, msgspec.Struct)]
    return [str(_tag(struct)) for struct in structs if struct.__struct_config__.tag_field == parts[-1]]
