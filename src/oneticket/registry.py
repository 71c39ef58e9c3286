"""Registries: how a criterion, an allocation, a model … is found by name in files and on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from oneticket.errors import unknown

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[F]):
    """One registered thing: its name, the function, one line about it, where it was published, and other facts."""

    name: str
    function: F
    summary: str
    source: str
    facts: Mapping[str, str]


class Registry(Generic[F]):
    """Functions of one kind by name.

    >>> greetings = Registry("greeting")
    >>> @greetings("hello", source="folklore")
    ... def hello() -> str:
    ...     '''The usual one.'''
    ...     return "hello"
    >>> greetings["hello"]()
    'hello'
    >>> greetings["helo"]
    Traceback (most recent call last):
    oneticket.errors.InputError: unknown greeting 'helo'; expected one of hello (did you mean 'hello'?)
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[F]] = {}

    def __call__(self, name: str, *, source: str = "", **facts: str) -> Callable[[F], F]:
        """Register the decorated function under ``name``; the first line of its docstring becomes its summary.

        ``facts`` are what users of the registry may want to know of it, such as ``needs="density"``.
        """

        def register(function: F) -> F:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            summary = (inspect.getdoc(function) or "").partition("\n")[0]
            self._entries[name] = Entry(name, function, summary, source, facts)
            return function

        return register

    def __getitem__(self, name: str) -> F:
        return self.entry(name).function

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def entry(self, name: str) -> Entry[F]:
        """The entry under ``name``; InputError with the nearest valid name when there is none."""
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def entries(self) -> list[Entry[F]]:
        """Every entry, in the order of registration."""
        return list(self._entries.values())
