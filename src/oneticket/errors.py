"""Errors that name the fault, its place, what was expected, and the nearest valid word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class OneticketError(Exception):
    """Base class of all errors that this package raises on purpose."""


class InputError(OneticketError, ValueError):
    """An input that cannot be used; nothing has been started.

    ``what`` names the fault, ``where`` the place (file and key, or argument), ``expected`` what is accepted and
    ``nearest`` the closest valid word.
    """

    def __init__(
        self, what: str, *, where: str | None = None, expected: str | None = None, nearest: str | None = None
    ) -> None:
        self.what, self.where, self.expected, self.nearest = what, where, expected, nearest
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f" (did you mean '{self.nearest}'?)"
        return text

    def at(self, where: str) -> InputError:
        """The same fault with ``where`` in front of its place."""
        place = f"{where}: {self.where}" if self.where else where
        return type(self)(self.what, where=place, expected=self.expected, nearest=self.nearest)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.expected, self.nearest))


def _rebuild(
    kind: type[InputError], what: str, where: str | None, expected: str | None, nearest: str | None
) -> InputError:
    return kind(what, where=where, expected=expected, nearest=nearest)


class TicketError(InputError):
    """A ticket file cannot be used."""


class ForeignFile(TicketError):
    """The file is not a ticket."""


class DamagedTicket(TicketError):
    """The file is a ticket whose content does not agree with its checksum, or that ends too early."""


class TooNewTicket(TicketError):
    """The ticket was written by a later version of the format."""


class NonFiniteLoss(OneticketError):
    """Training diverged: the loss is no longer a finite number.

    ``steps`` and ``samples`` count the training until that was noticed, ``history`` holds the epochs before.
    """

    def __init__(self, text: str, steps: int = 0, samples: int = 0, history: Sequence[Any] = ()) -> None:
        super().__init__(text)
        self.steps, self.samples, self.history = steps, samples, history


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word closest to ``word``, or None if no word is close."""
    by_lower = {v.lower(): v for v in valid}
    begun = [v for v in by_lower if len(word) > 2 and v.startswith(word.lower())]  # "lenet" is not near "lenet-300-100"
    found = difflib.get_close_matches(word.lower(), begun or by_lower, n=1, cutoff=0.0 if begun else 0.5)
    return by_lower[found[0]] if found else None


def unknown(kind: str, word: str, valid: Iterable[str], where: str | None = None) -> InputError:
    """The error for a word that is not one of the valid ones; it names the nearest."""
    words = list(valid)
    return InputError(
        f"unknown {kind} '{word}'", where=where, expected="one of " + ", ".join(words), nearest=nearest(word, words)
    )
