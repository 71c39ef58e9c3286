"""Draws: the ticket's own weights and their controls (methods §5)."""

from __future__ import annotations

from oneticket.weights.base import Origins, State, draw


@draw("rewound", source="Frankle et al. 2020")
def rewound(origins: Origins) -> State:
    """The ticket's weights W_k, after k steps of dense training."""
    return origins.rewound()


@draw("initial", source="Frankle & Carbin 2019")
def initial(origins: Origins) -> State:
    """The initial weights W_0."""
    return origins.initial()


@draw("trained", source="Han et al. 2015, §3")
def trained(origins: Origins) -> State:
    """The trained weights W_T."""
    return origins.trained()


@draw("re-drawn", source="Frankle & Carbin 2019", drawn="afresh")
def redrawn(origins: Origins) -> State:
    """Every parameter drawn afresh from the initial distribution."""
    return origins.redrawn()
