"""A moment of a training, counted in epochs, in optimiser steps, or in both."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from oneticket.errors import InputError

_PATTERN = re.compile(r"(?:(\d+)ep)?(?:(\d+)it)?")


@dataclass(frozen=True, order=True)
class Step:
    """A moment such as ``1ep``, ``500it`` or ``2ep50it``.

    >>> Step.parse("2ep50it").iterations(steps_per_epoch=100)
    250
    >>> str(Step.parse(0)), str(Step.parse("1ep"))
    ('0it', '1ep')
    """

    epochs: int = 0
    its: int = 0

    @classmethod
    def parse(cls, value: str | int | Step, name: str = "") -> Step:
        """Read ``"1ep"``, ``"500it"``, ``"2ep50it"`` or a whole number of steps. ``name`` is for the error."""
        if isinstance(value, Step):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(0, value)
        found = _PATTERN.fullmatch(value) if isinstance(value, str) and value else None
        if found is None:
            given = f"{name} = {value!r}" if name else repr(value)
            raise InputError(f"{given} is not a valid moment", expected="such as 1ep, 500it, 2ep50it or 0")
        return cls(int(found[1] or 0), int(found[2] or 0))

    def iterations(self, steps_per_epoch: int) -> int:
        """The number of optimiser steps before this moment."""
        return self.epochs * steps_per_epoch + self.its

    def scaled(self, stretch: Fraction, steps_per_epoch: int) -> Step:
        """This moment in a training ``stretch`` times as long: the first step that does not lie before it.

        >>> str(Step.parse("6ep").scaled(Fraction(1, 4), steps_per_epoch=15))
        '23it'
        """
        return Step(its=math.ceil(self.iterations(steps_per_epoch) * stretch))

    def __str__(self) -> str:
        text = (f"{self.epochs}ep" if self.epochs else "") + (f"{self.its}it" if self.its else "")
        return text or "0it"
