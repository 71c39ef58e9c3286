"""Conversion: values → the types that are declared for them; refusals name place, value and the nearest valid word."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import msgspec

from oneticket.errors import InputError, nearest, unknown

P = ParamSpec("P")
R = TypeVar("R")

Seed = Annotated[int, msgspec.Meta(ge=0)]
"""The number of a replicate: a whole number, 0 or more."""

_PLACED = re.compile(r"(?P<what>.*) - at `(?:key in )?\$(?P<path>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_NO_CHOICE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
_OTHER_TYPE = re.compile(r"Expected `(.*)`, got `(.*)`", re.DOTALL)
_KINDS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list",
    "object": "a table", "null": "nothing",
}  # fmt: skip
_PLAIN: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("text", "texts"),
    bool: ("True or False", "True or False"), NoneType: ("None", "None"),
}  # fmt: skip
_LONGEST = 60  # characters of a value in a message


# -- files --------------------------------------------------------------------------------------------------------
def refusal(error: msgspec.ValidationError, raw: Any, kind: Any, where: str = "") -> InputError:
    """The refusal of a value that msgspec could not convert, in the words of a file.

    Parameters
    ----------
    error : why it could not be converted.
    raw, kind : the content of a table, and the type to convert it to.
    where : the place of ``raw`` in the file, such as ``recipe.sgd``.
    """
    found = _PLACED.fullmatch(str(error))
    what, path = (found["what"], found["path"].lstrip(".")) if found else (str(error), "")
    place = joined(where, path) or None
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
        got = "a truth value" if got == _KINDS["bool"] else got
        value = _value(kind, raw, parts)
        several = f"{expected}, such as [{value}]" if (expected, got) == ("a list", "text") else expected
        return InputError(f"{value} is {got}", where=place, expected=several)
    return InputError(what[0].lower() + what[1:], where=place)


def joined(where: str, path: str) -> str:
    """The place ``path`` inside the place ``where``."""
    return f"{where}.{path}" if where and path and not path.startswith("[") else where + path


def _value(kind: Any, raw: Any, parts: Sequence[str]) -> str:
    try:
        value = _at(kind, raw, parts)[1]
    except (IndexError, ValueError):  # a path through any key of a table
        return "this"
    if isinstance(value, Mapping | list | tuple) or value is None:
        return "this"
    return str(value).lower() if isinstance(value, bool) else _shown(value)  # as TOML writes it


# -- arguments of Python ------------------------------------------------------------------------------------------
def conform(struct: msgspec.Struct) -> None:
    """Give each field of ``struct`` the type that it declares, strictly: ``True`` is not a number, ``1`` may be 1.0.

    For ``__post_init__``: msgspec checks types only where it reads a file. Raises InputError for another type.
    """
    for name, kind in _fields(type(struct)):
        value = getattr(struct, name)
        if value is msgspec.UNSET:
            continue
        fitted = fit(name, value, kind)
        if fitted is not value:
            msgspec.structs.force_setattr(struct, name, fitted)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, with its arguments checked against their annotations before it does any work.

    Numbers, texts and lists of them are converted strictly, as those of a file are; other objects must be instances of
    the annotated class. Raises InputError for a wrong type, and for an unknown keyword, with the nearest valid one.
    """
    signature = inspect.signature(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())

    @functools.wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        for word in () if takes_any else keywords:
            if word not in signature.parameters:
                known = [name for name in signature.parameters if name != "self"]
                raise unknown("argument", word, known, where=function.__name__)
        bound = signature.bind(*arguments, **keywords)
        for name, kind in _hints(function):
            if name in bound.arguments:
                bound.arguments[name] = fit(name, bound.arguments[name], kind)
        return function(*bound.args, **bound.kwargs)

    return call


def check_keywords(options: Mapping[str, Any], struct: type[msgspec.Struct]) -> None:
    """Refuse a keyword that is not a field of ``struct``, with the nearest one."""
    for word in options:
        if word not in struct.__struct_fields__:
            raise unknown("field", word, struct.__struct_fields__, where=struct.__name__)


def fit(name: str, value: Any, kind: Any) -> Any:
    """``value`` as ``kind``; InputError with its ``name`` where it is of another type."""
    if kind is Any:
        return value
    if not _is_plain(kind):
        return _instance(name, value, kind)
    try:
        return msgspec.convert(_builtin(value), kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__.at(name) from None
        words = [str(word) for m in members(kind) if get_origin(m) is Literal for word in get_args(m)]
        if words and isinstance(value, str):
            raise unknown(name, value, words) from None
        raise _misfit(name, value, kind) from None


def _instance(name: str, value: Any, kind: Any) -> Any:
    classes = tuple(collections.abc.Sequence if _is_list(m) else get_origin(m) or m for m in members(kind))
    words = [word for m in members(kind) if get_origin(m) is Literal for word in get_args(m)]
    classes = tuple(member for member in classes if member is not Literal)
    if isinstance(value, str) and words:
        if value in words:
            return value
        raise unknown(name, value, words)
    if any(member is Any for member in classes) or (isinstance(value, classes) and not _text_for_list(value, kind)):
        return value
    raise _misfit(name, value, kind)


def _text_for_list(value: Any, kind: Any) -> bool:
    return isinstance(value, str) and not any(member is str for member in members(kind))


def _misfit(name: str, value: Any, kind: Any) -> InputError:
    expected = " or ".join(dict.fromkeys(_described(member) for member in members(kind)))
    one_of_many = any(_is_list(member) for member in members(kind)) and not isinstance(value, list | tuple | Mapping)
    return InputError(
        f"{name} = {_shown(value)}", expected=f"{expected}, such as [{_shown(value)}]" if one_of_many else expected
    )


def _shown(value: Any) -> str:
    text = repr(value)
    if text.startswith("<") or len(text) > _LONGEST:
        text = f"a {type(value).__name__}" if not isinstance(value, str | type) else f"{text[:_LONGEST]}…"
    return text


def _described(kind: Any) -> str:
    """What a value of ``kind`` is, in words."""
    if kind in _PLAIN:
        return _PLAIN[kind][0]
    origin = get_origin(kind) or kind
    if origin is Annotated:
        inner, *limits = get_args(kind)
        least = next((limit.ge for limit in limits if isinstance(limit, msgspec.Meta)), None)
        return _described(inner) + (f" of at least {least}" if least is not None else "")
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if _is_list(kind):
        inside = {m for part in get_args(kind) if part is not Ellipsis for m in members(part) if m in _PLAIN}
        return "a list" + (f" of {' or '.join(_PLAIN[m][1] for m in inside)}" if len(inside) == 1 else "")
    if origin is collections.abc.Callable:
        return "a function"
    return "a dictionary" if origin in (dict, collections.abc.Mapping) else origin.__name__


def _is_list(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (tuple, list, collections.abc.Sequence)


def _is_plain(kind: Any) -> bool:
    """Whether msgspec converts values of ``kind``: numbers, texts, choices, structs, and lists of them."""
    if kind in _PLAIN or kind in (msgspec.UnsetType, Ellipsis) or get_origin(kind) is Literal:
        return True
    if get_origin(kind) in (Union, UnionType, tuple, Annotated):
        parts = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
        return all(map(_is_plain, parts))
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _builtin(value: Any) -> Any:
    """``value`` with NumPy's numbers as Python's, which msgspec asks for."""
    if isinstance(value, list | tuple):
        return [_builtin(part) for part in value]
    if isinstance(value, bool | int | float):
        return float(value) if isinstance(value, float) else value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value) if isinstance(value, str) else value


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.type) for field in msgspec.structs.fields(struct))


@functools.cache
def _hints(function: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(function, include_extras=True)
    kinds = inspect.signature(function).parameters
    named = (name for name in hints if name in kinds and kinds[name].kind is not inspect.Parameter.VAR_KEYWORD)
    return tuple((name, hints[name]) for name in named)


# -- the type at a place of a file --------------------------------------------------------------------------------
def _at(kind: Any, raw: Any, parts: Sequence[str]) -> tuple[Any, Any]:
    """The type and the value at the end of a path of keys and indices."""
    for part in parts:
        kind, raw = _inside(kind, raw, part)
    return kind, raw


def _inside(kind: Any, raw: Any, part: str) -> tuple[Any, Any]:
    value = raw[int(part)] if isinstance(raw, list | tuple) else raw.get(part) if isinstance(raw, Mapping) else None
    for member in members(kind):
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


def members(kind: Any) -> Iterator[Any]:
    """The alternatives of a union, to be absent left out; for any other type, the type itself."""
    if get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from members(member)
    elif kind is not msgspec.UnsetType:
        yield kind


def _structs(kind: Any, raw: Any) -> list[type[msgspec.Struct]]:
    """The structs that may stand here; among tagged structs, only the one whose tag ``raw`` has."""
    structs = [m for m in members(kind) if isinstance(m, type) and issubclass(m, msgspec.Struct)]
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
    words = [str(word) for member in members(here) if get_origin(member) is Literal for word in get_args(member)]
    if words or not parts:
        return words
    around, _ = _at(kind, raw, parts[:-1])
    structs = [m for m in members(around) if isinstance(m, type) and issubclass(m, msgspec.Struct)]
    return [str(_tag(struct)) for struct in structs if struct.__struct_config__.tag_field == parts[-1]]
