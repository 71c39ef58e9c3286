"""Draws: the ticket's own weights and their controls (methods §5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from oneticket.weights.base import DrawContext, State, draw


@draw("rewound", source="Frankle et al. 2020")
def rewound(context: DrawContext) -> State:
    """The ticket's weights W_k, after k steps of dense training."""
    return dict(context.rewound)


@draw("initial", source="Frankle & Carbin 2019", scale="initial")
def initial(context: DrawContext) -> State:
    """The initial weights W_0."""
    return dict(context.initial)


@draw("trained", source="Han et al. 2015, §3")
def trained(context: DrawContext) -> State:
    """The trained weights W_T."""
    return dict(context.trained)


@draw("re-drawn", source="Frankle & Carbin 2019", drawn="afresh", scale="initial")
def redrawn(context: DrawContext) -> State:
    """Every parameter drawn afresh from the initial distribution."""
    return dict(context.redrawn)


@draw("reshuffled", source="Zhou et al. 2019, §3")
def reshuffled(context: DrawContext) -> State:
    """The ticket's kept weights W_k shuffled inside each layer among the kept positions; the rest as in W_k."""
    state, generator = dict(context.rewound), context.generator
    for name, mask in context.masks.items():
        values = state[name].detach().clone()
        kept = values[mask]
        values[mask] = kept[torch.randperm(len(kept), generator=generator)]
        state[name] = values
    return state


@draw("sign-constant", source="Zhou et al. 2019, §3", scale="initial")
def sign_constant(context: DrawContext) -> State:
    """The ticket's signs at one magnitude a layer, sign(W_k) · σ_l; what is not prunable as in W_k.

    σ_l is the population standard deviation of W_0,l, as in the criterion ``normalised-magnitude``; since it is
    measured, it holds for any initial distribution. A weight of exactly zero has no sign and stays zero.
    """
    state, start = dict(context.rewound), context.initial
    for name in context.masks:
        values = start[name].detach().double()
        spread = (values - values.mean()).square().mean().sqrt()
        state[name] = state[name].detach().sign() * float(spread)
    return state


@draw("sign-redrawn", source="Zhou et al. 2019, §3", scale="initial")
def sign_redrawn(context: DrawContext) -> State:
    """The ticket's signs on fresh magnitudes, sign(W_k) · |fresh|; what is not prunable as in the fresh draw.

    A weight of exactly zero has no sign and stays zero.
    """
    return _signed(context, context.rewound)


@draw("sign-trained", source="Oh et al. 2025: the signed mask", scale="initial")
def sign_trained(context: DrawContext) -> State:
    """The signs that training ended with on fresh magnitudes, sign(W_T) · |fresh|; the rest as in the fresh draw."""
    return _signed(context, context.trained)


@draw("sign-trained-all", source="Oh et al. 2025", scale="initial", head="own")
def sign_trained_all(context: DrawContext) -> State:
    """sign(W_T) · |fresh| for every parameter, biases and the head too; with ``norms`` = ``fresh`` not for norms.

    Entries of other shapes than in W_T, such as a head for other classes, are fresh.
    """
    state, trained = dict(context.redrawn), context.trained
    for name, value in context.redrawn.items():
        if value.is_floating_point() and name in trained and trained[name].shape == value.shape:
            state[name] = trained[name].detach().sign() * value.detach().abs()
    return state


def _signed(context: DrawContext, signs: Mapping[str, Tensor]) -> State:
    state = dict(context.redrawn)
    for name in context.masks:
        state[name] = signs[name].detach().sign() * state[name].detach().abs()
    return state
