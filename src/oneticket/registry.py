"""Registries: criteria, allocations, models … by the names that files and the command line use."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import msgspec

from oneticket.conversion import members
from oneticket.errors import InputError, unknown

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=msgspec.Struct)


class NoFacts(msgspec.Struct, frozen=True):
    """The facts of a registry without facts."""


@dataclass(frozen=True)
class Entry(Generic[F, S]):
    """A registered function: its name, the function, a one-line summary, its publication, its facts, and where.

    ``module`` is the module that registered it, which need not be the one that defines the function.
    """

    name: str
    function: F
    summary: str
    source: str
    facts: S
    module: str = field(default="", compare=False)


class Registry(Generic[F, S]):
    """Functions of one kind by name.

    Parameters
    ----------
    kind : str
        The kind of the functions, as errors and ``oneticket list`` name it.
    facts : type of msgspec.Struct
        The type of an entry's facts: a frozen struct with a default for each field.

    Examples
    --------
    >>> class GreetingFacts(msgspec.Struct, frozen=True):
    ...     polite: bool = True
    >>> GREETINGS = Registry("greeting", GreetingFacts)
    >>> greeting = GREETINGS.register
    >>> @greeting("hello", source="folklore", polite=False)
    ... def hello() -> str:
    ...     '''The usual one.'''
    ...     return "hello"
    >>> GREETINGS["hello"](), GREETINGS.entry("hello").facts.polite
    ('hello', False)
    >>> GREETINGS["helo"]
    Traceback (most recent call last):
    oneticket.errors.InputError: unknown greeting 'helo'; expected one of hello (did you mean 'hello'?)
    """

    def __init__(self, kind: str, facts: type[S]) -> None:
        self.kind = kind
        self._facts = facts
        self._entries: dict[str, Entry[F, S]] = {}

    def register(self, name: str, *, source: str = "", **facts: Any) -> Callable[[F], F]:
        """Register the decorated function under ``name``.

        Parameters
        ----------
        name : str
            The name; it must not be registered yet.
        source : str
            Where it was published.
        **facts
            Fields of the registry's facts.

        Returns
        -------
        Callable
            The decorator, which returns the function unchanged; the first line of its docstring becomes the summary.

        Raises
        ------
        TypeError
            For an unknown fact, or a value of the wrong type.
        ValueError
            For a name that is registered already.
        InputError
            For a decorator without its name, which would register nothing.
        """
        if not isinstance(name, str):
            what = f"@{self.kind.replace('-', '')} without a name registers nothing"
            function = getattr(name, "__name__", "name")
            raise InputError(what, expected=f'@{self.kind.replace("-", "")}("{function.replace("_", "-")}")')
        stated = self._stated(name, facts)
        module = str(sys._getframe(1).f_globals.get("__name__", ""))

        def register(function: F) -> F:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            summary = (inspect.getdoc(function) or "").partition("\n")[0]
            self._entries[name] = Entry(name, function, summary, source, stated, module)
            return function

        return register

    def _stated(self, name: str, facts: dict[str, Any]) -> S:
        where = f"{self.kind} '{name}'"
        kinds = {field.name: field.type for field in msgspec.structs.fields(self._facts)}
        for fact, value in facts.items():
            if fact not in kinds:
                raise TypeError(str(unknown("fact", fact, kinds, where=where)))
            try:
                msgspec.convert(value, kinds[fact])
            except msgspec.ValidationError as error:
                words = [str(word) for m in members(kinds[fact]) if get_origin(m) is Literal for word in get_args(m)]
                told = (
                    str(unknown(fact, str(value), words, where=where))
                    if words
                    else f"{where}: {fact} = {value!r}: {error}"
                )
                raise TypeError(told) from None
        return self._facts(**facts)

    def __getitem__(self, name: str) -> F:
        return self.entry(name).function

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def entry(self, name: str) -> Entry[F, S]:
        """The entry ``name``; an InputError for an unknown name gives the nearest valid name."""
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def entries(self) -> list[Entry[F, S]]:
        """Every entry, in the order of registration."""
        return list(self._entries.values())
