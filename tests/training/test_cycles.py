"""A recipe that is run several times: schedule and optimiser begin anew, weights and epochs go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.training import (
    Callback,
    Checkpoint,
    Cosine,
    Recipe,
    Runtime,
    Start,
    StepDecay,
    Training,
    TrainState,
    train,
)

EPOCHS = 3
DATA = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))


def masks_of(model: nn.Module) -> Masks:
    generator = torch.Generator().manual_seed(3)
    return Masks({n: torch.rand(w.shape, generator=generator) < 0.6 for n, w in Prunable(model).weights()})


def run(recipe: Recipe, model: nn.Module | None = None, **options: Any) -> tuple[dict[str, Tensor], Training]:
    model = model or network()
    training = train(model, DATA, recipe, masks=masks_of(model), validation=DATA, **options)
    return {name: value.clone() for name, value in model.state_dict().items()}, training


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


RECIPES = {
    "sgd": Recipe.sgd(epochs=EPOCHS, lr=0.1, batch_size=5),
    "adam": Recipe.adam(epochs=EPOCHS, lr=0.01, batch_size=5),
}


@pytest.mark.parametrize("name", RECIPES)
def test_one_cycle_is_the_training_itself_to_the_bit(name: str) -> None:
    (one, first), (two, second) = run(RECIPES[name]), run(RECIPES[name], start=Start(cycles=1))
    assert equal(one, two)
    assert first.history == second.history


@pytest.mark.parametrize("name", RECIPES)
def test_two_cycles_are_two_trainings_whose_epochs_are_counted_on(name: str) -> None:
    """At a constant rate the second one is the second half of a longer recipe, begun with a fresh optimiser."""
    recipe = RECIPES[name]
    longer = Recipe(optimizer=recipe.optimizer, lr=recipe.lr, epochs=2 * EPOCHS, batch_size=5, momentum=recipe.momentum)
    model = network()
    run(recipe, model)
    apart, second = run(longer, model, start=Start(step=f"{EPOCHS}ep"))
    together, training = run(recipe, start=Start(cycles=2))
    assert equal(apart, together)
    assert training.history[EPOCHS:] == second.history
    assert training.steps == 2 * EPOCHS * 4


@pytest.mark.parametrize("schedule", [Cosine(), StepDecay(at=("1ep", "2ep"))])
def test_each_cycle_has_the_whole_schedule(schedule: Any) -> None:
    class Rates(Callback):
        modifies = False

        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_step_end(self, state: TrainState) -> None:
            self.seen.append(state.lr)

    once, thrice = Rates(), Rates()
    recipe = Recipe.sgd(epochs=EPOCHS, lr=0.1, batch_size=5, schedule=schedule, warmup="1it")
    run(recipe, callbacks=[once])
    run(recipe, callbacks=[thrice], start=Start(cycles=3))
    assert thrice.seen == 3 * once.seen


@pytest.mark.parametrize("epochs", [2, EPOCHS, 4])
def test_a_killed_one_goes_on_to_the_same_bits(tmp_path: Path, epochs: int) -> None:
    class Kill(Callback):
        modifies = False

        def on_epoch_end(self, state: TrainState) -> None:
            if len(state.history) == epochs + 1:
                raise KeyboardInterrupt

    whole, expected = run(RECIPES["adam"], start=Start(cycles=2))
    runtime = Runtime(checkpoint=Checkpoint(tmp_path / "training.pt", every=0))
    with pytest.raises(KeyboardInterrupt):
        run(RECIPES["adam"], start=Start(cycles=2), callbacks=[Kill()], runtime=runtime)
    resumed, found = run(RECIPES["adam"], network(seed=9), start=Start(cycles=2), runtime=runtime)
    assert found.resumed_at >= epochs * 4
    assert equal(resumed, whole)
    assert found.history == expected.history


def test_less_than_one_cycle_is_refused() -> None:
    with pytest.raises(InputError, match="cycles = 0"):
        Start(cycles=0)
