"""SCULPT-ing: a denser mask in cycles, one cut of trained weights by magnitude, one more cycle."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.methods import MethodContext, callback_of
from oneticket.prunable import Prunable
from oneticket.training import Callback, Recipe, Runtime, Start, StepDecay, TrainState, train

EPOCHS, PER_EPOCH = 2, 4
RECIPES = {
    "sgd": Recipe.sgd(epochs=EPOCHS, lr=0.1, batch_size=5, schedule=StepDecay(at=("1ep",))),
    "adam": Recipe.adam(epochs=EPOCHS, lr=0.01, batch_size=5),
}
DATA = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


class Seen(Callback):
    """Masks and weights after each step, and the masks before the first one."""

    def on_train_start(self, state: TrainState) -> None:
        self.first, self.masks, self.weights = state.masks, [], []

    def on_step_end(self, state: TrainState) -> None:
        self.masks.append(state.masks)
        self.weights.append({name: weight.detach().clone() for name, weight in state.weights().items()})


def run(
    method: str, density: float, cycles: int, recipe: str = "sgd", masks: Masks | None = None, **options: Any
) -> tuple[dict[str, Tensor], Seen]:
    model, seen = network(), Seen()
    given = masks or Masks.full(dict(Prunable(model).weights()))
    callback = callback_of(method, MethodContext(density, "4", RECIPES[recipe]), {"cycles": cycles, **options})
    train(
        model, DATA, RECIPES[recipe], masks=given, callbacks=[callback, seen], start=Start(cycles=cycles),
        runtime=Runtime(compact=False),
    )  # fmt: skip
    return {name: value.clone() for name, value in model.state_dict().items()}, seen


@pytest.mark.parametrize("allocation", ["erk", "global"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_without_a_higher_density_it_is_cyclic_to_the_bit(recipe: str, allocation: str) -> None:
    sculpted, seen = run("sculpt", 0.4, 3, recipe, factor=1.0, allocation=allocation)
    cyclic, _ = run("cyclic", 0.4, 3, recipe, masks=seen.first)
    assert seen.first.kept == math.floor(0.4 * 117 + 0.5)
    assert all(torch.equal(sculpted[name], value) for name, value in cyclic.items())


@pytest.mark.parametrize(("density", "factor", "first"), [(0.1, 4.0, 0.4), (0.4, 4.0, 1.0), (0.1, 2.5, 0.25)])
@pytest.mark.parametrize("cycles", [2, 5])
def test_it_cuts_once_and_counts_exactly(density: float, factor: float, first: float, cycles: int) -> None:
    """⌊ρ₀N⌉ weights until the last cycle begins, then ⌊ρN⌉: the largest of the whole network, at their values."""
    _, seen = run("sculpt", density, cycles, factor=factor)
    cut = (cycles - 1) * EPOCHS * PER_EPOCH
    before, after = (math.floor(share * 117 + 0.5) for share in (first, density))
    assert [masks.kept for masks in (seen.first, *seen.masks)] == [before] * cut + [after] * (EPOCHS * PER_EPOCH + 1)
    assert all(masks == seen.first for masks in seen.masks[: cut - 1])


def test_what_stays_is_the_largest_of_the_trained_weights() -> None:
    cycles, cut = 3, 2 * EPOCHS * PER_EPOCH
    _, seen = run("sculpt", 0.1, cycles)
    uncut, _ = run("cyclic", 0.4, 2, masks=seen.first)
    flat = torch.cat([uncut[name].flatten() for name in seen.first]).abs()
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[sorted(range(len(flat)), key=lambda i: (-float(flat[i]), i))[: math.floor(0.1 * 117 + 0.5)]] = True
    assert torch.equal(torch.cat([mask.flatten() for mask in seen.masks[cut - 1].values()]), kept)
    for name, mask in seen.masks[cut - 1].items():
        assert torch.equal(seen.weights[cut - 1][name], uncut[name] * mask)


def test_options_out_of_range_are_refused() -> None:
    context = MethodContext(0.1, "4", RECIPES["sgd"])
    with pytest.raises(InputError, match=r"method 'sculpt'.*cycles = 1.*at least 2"):
        callback_of("sculpt", context, {"cycles": 1})
    with pytest.raises(InputError, match=r"factor = 0\.5"):
        callback_of("sculpt", context, {"factor": 0.5})
