"""Draws: the ticket's own weights and their controls (methods §5)."""

from __future__ import annotations

import torch

from oneticket.weights.base import Origins, State, draw


@draw("rewound", source="Frankle et al. 2020")
def rewound(origins: Origins) -> State:
    """The ticket's weights W_k, after k steps of dense training."""
    return origins.rewound()


@draw("initial", source="Frankle & Carbin 2019", scale="initial")
def initial(origins: Origins) -> State:
    """The initial weights W_0."""
    return origins.initial()


@draw("trained", source="Han et al. 2015, §3")
def trained(origins: Origins) -> State:
    """The trained weights W_T."""
    return origins.trained()


@draw("re-drawn", source="Frankle & Carbin 2019", drawn="afresh", scale="initial")
def redrawn(origins: Origins) -> State:
    """Every parameter drawn afresh from the initial distribution."""
    return origins.redrawn()


@draw("reshuffled", source="Zhou et al. 2019, §3")
def reshuffled(origins: Origins) -> State:
    """The ticket's kept weights W_k shuffled inside each layer among the kept positions; the rest as in W_k."""
    state, generator = origins.rewound(), origins.generator()
    for name, mask in origins.masks().items():
        values = state[name].detach().clone()
        kept = values[mask]
        values[mask] = kept[torch.randperm(len(kept), generator=generator)]
        state[name] = values
    return state


@draw("sign-constant", source="Zhou et al. 2019, §3", scale="initial")
def sign_constant(origins: Origins) -> State:
    """The ticket's signs at one magnitude a layer, sign(W_k) · σ_l; what is not prunable as in W_k.

    σ_l is the population standard deviation of W_0,l, as in the criterion ``normalised-magnitude``: measured, it holds
    for any initial distribution. A weight of exactly zero has no sign and stays zero.
    """
    state, start = origins.rewound(), origins.initial()
    for name in origins.masks():
        values = start[name].detach().double()
        spread = (values - values.mean()).square().mean().sqrt()
        state[name] = state[name].detach().sign() * float(spread)
    return state


@draw("sign-redrawn", source="Zhou et al. 2019, §3", scale="initial")
def sign_redrawn(origins: Origins) -> State:
    """The ticket's signs on fresh magnitudes, sign(W_k) · |fresh|; what is not prunable as in the fresh draw.

    A weight of exactly zero has no sign and stays zero.
    """
    return _signed(origins, origins.rewound())


@draw("sign-trained", source="Oh et al. 2025: the signed mask", scale="initial")
def sign_trained(origins: Origins) -> State:
    """The signs that training ended with on fresh magnitudes, sign(W_T) · |fresh|; the rest as in the fresh draw."""
    return _signed(origins, origins.trained())


def _signed(origins: Origins, signs: State) -> State:
    state = origins.redrawn()
    for name in origins.masks():
        state[name] = signs[name].detach().sign() * state[name].detach().abs()
    return state
