"""The ladder: a density goes to the nearest round on the scale that rounds live on, or is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneticket.errors import InputError
from oneticket.lab.planning.ladder import Ladder
from oneticket.search import Search

searches = st.builds(Search, rounds=st.integers(1, 30), prune=st.floats(0.01, 0.9))


@given(searches, st.floats(1e-6, 1.0))
def test_no_other_round_is_nearer(search: Search, density: float) -> None:
    ladder = Ladder(search)
    steps = [abs(math.log(density) - number * math.log1p(-search.prune)) for number in range(search.rounds + 1)]
    try:
        rung = ladder.nearest(density)
    except InputError:
        nearest_is_dense = density < 1 and steps[0] == pytest.approx(min(steps))
        assert nearest_is_dense or (density < ladder.rungs[-1].density and min(steps) > -math.log1p(-search.prune) / 2)
    else:
        assert ladder.rungs[rung.number] == rung
        assert steps[rung.number] == pytest.approx(min(steps))


@given(searches)
def test_the_density_of_a_round_is_its_own(search: Search) -> None:
    ladder = Ladder(search)
    assert [ladder.nearest(rung.density) for rung in ladder.rungs] == ladder.rungs
    assert [rung.density for rung in ladder.rungs] == search.densities()


def test_a_search_of_so_many_rounds_that_densities_vanish_has_those_before() -> None:
    ladder = Ladder(Search(rounds=5000, prune=0.5))
    assert ladder.nearest(0.25) == ladder.rungs[2]
    assert 0 < ladder.rungs[-1].density < 1e-300
