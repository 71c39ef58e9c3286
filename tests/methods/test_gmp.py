"""Gradual magnitude pruning: the cubic curve in numbers, and that the smallest go along it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.methods.gmp import density_after
from oneticket.randomness import seeded
from oneticket.training import Recipe, TrainState, train

Small = Callable[..., nn.Sequential]
NAMES = ("0.weight", "3.weight")


def test_the_curve_in_numbers() -> None:
    """s_t = s_f (1 − (1 − t/T)³) for s_f = 0.8 at quarters of the way: 37/64, 56/64 and 63/64 of 0.8."""
    sparsity = [1 - density_after(quarter / 4, 0.2) for quarter in range(5)]
    assert sparsity == pytest.approx([0, 0.4625, 0.7, 0.7875, 0.8], abs=1e-15)
    assert density_after(1.0, 0.2) == 0.2


@given(final=st.floats(1e-4, 1), steps=st.integers(1, 400))
def test_the_curve_falls_to_the_density_and_never_below(final: float, steps: int) -> None:
    curve = [density_after(t / steps, final) for t in range(steps + 1)]
    assert curve[0] == pytest.approx(1)
    assert curve[-1] == final
    assert min(curve) >= final
    assert all(later <= earlier for earlier, later in itertools.pairwise(curve))
    np.testing.assert_allclose(
        [1 - d for d in curve], [(1 - final) * (1 - (1 - t / steps) ** 3) for t in range(steps + 1)], atol=1e-12
    )


def watched(small: Small, samples: tuple[Tensor, Tensor], **options: object) -> tuple[list[Masks], list[Tensor]]:
    """Masks after each of 40 steps, and the weights that each step began with."""
    masks, weights = [], []
    recipe, model = Recipe.sgd(epochs=10, batch_size=2), small()
    callback = callback_of("gmp", MethodContext(0.25, "5", recipe), options)
    after = callback.after_step

    def watching(state: TrainState) -> None:
        weights.append(torch.cat([model.get_parameter(name).detach().flatten().clone() for name in NAMES]))
        after(state)
        masks.append(state.masks)

    callback.after_step = watching  # type: ignore[method-assign]
    train(model, samples, recipe, masks=Masks.full({n: model.get_parameter(n) for n in NAMES}), callbacks=[callback])
    return masks, weights


@pytest.mark.parametrize("allocation", ["layerwise", "global"])
def test_the_smallest_go_along_the_curve(allocation: str, small: Small, samples: tuple[Tensor, Tensor]) -> None:
    """T = 20 of 40 steps, so masks change after each second step; of 32 weights 8 are left in the end.

    ``layerwise``, which is the default, each of the layers of 12 and 20 weights is pruned to s_t by itself.
    """
    masks, weights = watched(small, samples, **({} if allocation == "layerwise" else {"allocation": allocation}))
    layers = [slice(0, 12), slice(12, 32)] if allocation == "layerwise" else [slice(0, 32)]
    before = torch.ones(32, dtype=torch.bool)
    for step, (now, values) in enumerate(zip(masks, weights, strict=True)):
        t = step + 1
        flat = torch.cat([mask.flatten() for mask in now.values()])
        if t % 2 or t > 20:
            assert torch.equal(flat, before), t
            continue
        density = 1 - 0.75 * (1 - (1 - t / 20) ** 3)
        assert flat.sum() == np.floor(density * 32 + 0.5)
        assert not (flat & ~before).any(), "what has gone stays away"
        for layer in layers:
            size = layer.stop - layer.start
            assert abs(int(flat[layer].sum()) - density * size) < 1
            gone, kept = values.abs()[layer][(before & ~flat)[layer]], values.abs()[layer][flat[layer]]
            assert not len(gone) or gone.max() <= kept.min()
        before = flat
    assert [int(before[:12].sum()), int(before[12:].sum())] == [3, 5] or allocation == "global"


def test_layers_of_other_scales_tell_the_two_allocations_apart(samples: tuple[Tensor, Tensor]) -> None:
    """Weights ten times as large: by one threshold that layer keeps all, by itself it keeps its share."""
    kept = {}
    for allocation in ("layerwise", "global"):
        with seeded(0):
            model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 2)).double()
        model.get_parameter("2.weight").data *= 100
        recipe = Recipe.sgd(epochs=2, batch_size=8, lr=1e-6)
        full = Masks.full({name: model.get_parameter(name) for name in ("0.weight", "2.weight")})
        callback = callback_of("gmp", MethodContext(0.5, "4", recipe), {"allocation": allocation})
        masks = train(model, samples, recipe, masks=full, callbacks=[callback]).masks
        assert masks is not None
        kept[allocation] = [row.kept for row in masks.table()]
    assert kept == {"layerwise": [12, 12], "global": [0, 24]}


def test_options_say_when(small: Small, samples: tuple[Tensor, Tensor]) -> None:
    counts = [masks.kept for masks in watched(small, samples, every=1, stop=0.25)[0]]
    assert counts[9:] == [8] * 31
    assert len(set(counts[:10])) > 7
    context = MethodContext(0.5, "5", Recipe.sgd(epochs=1))
    for options in ({"every": 0}, {"stop": 0.0}, {"stop": 1.5}):
        with pytest.raises(InputError, match="method 'gmp'"):
            callback_of("gmp", context, options)
    with pytest.raises(InputError, match=r"unknown allocation 'globally'.*did you mean 'global'"):
        callback_of("gmp", context, {"allocation": "globally"})
