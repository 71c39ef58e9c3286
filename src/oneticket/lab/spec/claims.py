"""Claims of an experiment file: what its author expects to see, written down before a network is trained."""

from __future__ import annotations

from typing import Literal

import msgspec

from oneticket.errors import InputError


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One arm against another (or the same from another source, or rescaled otherwise), and what is expected.

    Exactly one of ``direction`` and ``equivalent`` (a margin in percentage points) is given. The filters ``targets``,
    ``sources``, ``densities``, ``at_most`` and ``across`` choose places; without them the claim is about all that the
    grids train. ``across`` keeps the transfers from one ``split`` of the same data to another, to other ``data``, or to
    another ``recipe`` on the same data.
    """

    says: str
    arm: str
    against: str | None = None
    direction: Literal["better", "worse"] | None = None
    equivalent: float | None = None
    rescale: str = "none"
    against_rescale: str | None = None
    against_source: str | None = None
    targets: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    densities: tuple[float, ...] = ()
    at_most: float | None = None
    across: Literal["split", "data", "recipe"] | None = None

    def __post_init__(self) -> None:
        if not self.says.strip():
            raise InputError("the sentence is empty", where="says", expected="what is claimed, in a sentence")
        if (self.direction is None) == (self.equivalent is None):
            given = "neither direction nor equivalent" if self.direction is None else "direction and equivalent"
            expected = 'direction = "better" or "worse", or equivalent = a margin in points such as 0.5'
            raise InputError(given, expected=expected)
        if self.equivalent is not None and not 0 < self.equivalent < 100:
            expected = "a margin in percentage points, above 0 and below 100"
            raise InputError(f"equivalent = {self.equivalent:g}", where="equivalent", expected=expected)
        if self.at_most is not None and not 0 < self.at_most <= 1:
            raise InputError(
                f"at_most = {self.at_most:g}", where="at_most", expected="a density, above 0 and at most 1 (not %)"
            )
        if self.other == self.arm and self.against_rescale in (None, self.rescale) and self.against_source is None:
            raise InputError(
                f"'{self.arm}' is compared with itself", where="against",
                expected="another arm, or the same one with against_source or against_rescale",
            )  # fmt: skip

    @property
    def other(self) -> str:
        """The arm on the other side; the same arm when ``against`` is not given."""
        return self.against or self.arm

    @property
    def comparison(self) -> str:
        """Both sides, ``winning − random``; with what differs but the arm in brackets."""
        first = _side(self.arm, self.rescale, "")
        second = _side(self.other, self._second_rescale, self.against_source or "")
        return f"{first} − {second}"

    @property
    def _second_rescale(self) -> str:
        return self.rescale if self.against_rescale is None else self.against_rescale


def _side(arm: str, rescale: str, source: str) -> str:
    facts = [*([f"rescale {rescale}"] if rescale != "none" else []), *([f"from {source}"] if source else [])]
    return f"{arm} ({', '.join(facts)})" if facts else arm
