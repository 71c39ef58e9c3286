"""Natural zeros: how much there was to correct for the arms whose masks are ``natural-corrected``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oneticket.lab.results.surroundings import Facts

LITTLE = 0.01
"""The fraction of naturally zero weights below which the control is told to be hardly another than a random mask."""

_MASK = "natural-corrected"


def correction(facts: Sequence[Facts]) -> list[str]:
    """A sentence where ``natural-corrected`` had hardly anything to correct, or does not say how much."""
    measured = [fact.naturally_zero for fact in facts if fact.mask == _MASK]
    return _told([float(value) if value else None for value in measured])


def correction_of_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same of the rows of a table, which do not say which arms lack the figure."""
    return _told([row["naturally_zero"] for row in rows if row.get("naturally_zero") is not None])


def _told(fractions: Sequence[float | None]) -> list[str]:
    known = [fraction for fraction in fractions if fraction is not None]
    few = [fraction for fraction in known if fraction < LITTLE]
    told = []
    if few:
        least, most = (f"{100 * bound:.2g} %" for bound in (min(few), max(few)))
        share = most if least == most else f"{least} to {most}"
        told.append(
            f"'{_MASK}' corrects next to nothing in {len(few)} of {len(fractions)} networks: dense training drove "
            f"{share} of the weights to zero, and 0.08 % of an untouched normal layer are that small by chance. "
            "Read the arm as 'random'."
        )
    if len(known) < len(fractions):
        told.append(
            f"how much '{_MASK}' corrected is not recorded in {len(fractions) - len(known)} of {len(fractions)} "
            "networks, which an earlier version trained."
        )
    return told
