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
        The factor by which a density may miss its round: half a step of the ladder, on the logarithmic scale that
        rounds live on, and what rounding takes.
    """

    def __init__(self, search: Search) -> None:
        # So deep that no number is small enough for it, a round has no density, and long since no weights.
        there = takewhile(bool, search.densities())
        self.rungs = [Rung(number, density) for number, density in enumerate(there)]
        self.reach = (1 - search.prune) ** -0.5 * (1 + 1e-9)
        self._nearest = {rung.density: rung for rung in reversed(self.rungs)}

    def nearest(self, density: float) -> Rung:
        """The round whose density is nearest on a logarithmic scale.

        Raises
        ------
        InputError
            For a density that no round comes near: it lies behind the last one.
        """
        if density not in self._nearest:
            rung = min(self.rungs, key=lambda rung: distance(density, rung))
            # Half a step of the ladder is as far as the nearest round can be; what is further lies behind its end.
            if distance(density, rung) > self.reach:
                last = self.rungs[-1]
                raise InputError(
                    f"density {density:g} is behind the last round (round {last.number} has {last.density:.3g})",
                    expected="a larger density, or more rounds under [search]",
                )
            self._nearest[density] = rung
        return self._nearest[density]


def distance(density: float, rung: Rung) -> float:
    """The factor, 1 or more, by which a density misses that of a round."""
    return max(density / rung.density, rung.density / density)
