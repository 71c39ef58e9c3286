"""The ladder of a search: the density of the ticket of every round, and the round that a density asks for."""

from __future__ import annotations

from itertools import takewhile

import msgspec

from oneticket.errors import InputError
from oneticket.search import Search


class Rung(msgspec.Struct, frozen=True):
    """A round of a search, and the density of its ticket (a fraction of the prunable weights)."""

    number: int
    density: float


class Ladder:
    """The rounds of one search by their densities.

    Parameters
    ----------
    search : Search
        How the tickets are searched for.

    Attributes
    ----------
    rungs : list of Rung
        Every round, from the dense network at round 0 on.
    reach : float
        The factor by which a density may miss its round: half a step of the ladder on a logarithmic scale, plus a
        margin for rounding.
    """

    def __init__(self, search: Search) -> None:
        # Very deep rounds have a density that underflows to 0; they have long since lost all weights.
        there = takewhile(bool, search.densities())
        self.rungs = [Rung(number, density) for number, density in enumerate(there)]
        self.reach = (1 - search.prune) ** -0.5 * (1 + 1e-9)
        self._nearest = {rung.density: rung for rung in reversed(self.rungs)}

    def _dense(self, density: float) -> InputError:
        shown = ", ".join(f"{rung.density:.3g}" for rung in self.rungs[1:4])
        return InputError(
            f"density {density:g} is nearer to the dense network than to any round (the first have {shown})",
            expected="the density of a round, or a smaller prune under [search]",
        )

    def nearest(self, density: float) -> Rung:
        """The round whose density is nearest on a logarithmic scale.

        Raises
        ------
        InputError
            For a density far below that of the last round, and for one that is nearer to the dense network than to
            round 1, whose ticket would be all weights.
        """
        if density not in self._nearest:
            rung = min(self.rungs, key=lambda rung: distance(density, rung))
            # Every density within the ladder is at most half a step from a round; this one is below the last round.
            if distance(density, rung) > self.reach:
                last = self.rungs[-1]
                raise InputError(
                    f"density {density:g} is below that of the last round ({last.density:.3g} in round {last.number})",
                    expected="a larger density, or more rounds under [search]",
                )
            if rung.number == 0:
                raise self._dense(density)
            self._nearest[density] = rung
        return self._nearest[density]


NOTABLE = 1.05
"""The factor from which a round misses its density so far that the plan says so."""


def distance(density: float, rung: Rung) -> float:
    """The factor, 1 or more, between a density and that of a round."""
    return max(density / rung.density, rung.density / density)
