"""The loop keeps masks: for hundreds of steps of every recipe, and whatever a callback writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.training import Callback, Checkpoint, OnEpoch, Recipe, Runtime, Start, TrainState, train

Data = tuple[Tensor, Tensor]
MakeNetwork = Callable[..., nn.Sequential]

RECIPES = {
    "sgd": Recipe.sgd(epochs=40, batch_size=5, lr=0.05, weight_decay=0.05),
    "nesterov": Recipe.sgd(epochs=40, batch_size=5, lr=0.05, nesterov=True, weight_decay=0.05, clip_norm=0.5),
    "adam": Recipe.adam(epochs=40, batch_size=5, lr=0.01, weight_decay=0.05),
    "adamw": Recipe(optimizer="adamw", lr=0.01, epochs=40, batch_size=5, weight_decay=0.3),
    "rmsprop": Recipe(optimizer="rmsprop", lr=0.003, epochs=40, batch_size=5, momentum=0.8, weight_decay=0.05),
}


def of_epochs(epochs: int, recipe: Recipe) -> Recipe:
    return msgspec.structs.replace(recipe, epochs=epochs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_masked_weights_are_exactly_zero_after_each_of_200_steps(
    recipe: str, network: MakeNetwork, data: Data, masks: Masks, recorder: Any
) -> None:
    """From a dense network and with what its optimiser remembered, both of which the masks cut."""
    start = train(network(), data, RECIPES[recipe], snapshots=["1ep"]).snapshots["1ep"]
    model = recorder.watch(network())
    model.load_state_dict(start.state)
    train(model, data, RECIPES[recipe], masks=masks, start=Start(optimizer_state=start.optimizer))
    assert len(recorder.states) == 200
    for name, mask in masks.items():
        assert torch.count_nonzero(start.state[name][~mask]) == int((~mask).sum())
        seen = torch.stack([state[name] for state in recorder.states])
        assert torch.count_nonzero(seen[:, ~mask]) == 0
        assert (seen[1:][:, mask] != seen[:-1][:, mask]).any(0).all(), "the others move"


class Careless(Callback):
    """Writes into every weight before the optimiser steps, masked ones too."""

    @torch.no_grad()
    def after_backward(self, state: TrainState) -> None:
        for weight in state.weights().values():
            weight.add_(1.0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_companion_writes_is_masked(
    recipe: str, network: MakeNetwork, data: Data, masks: Masks, recorder: Any
) -> None:
    model = recorder.watch(network())
    train(model, data, of_epochs(1, RECIPES[recipe]), masks=masks, callbacks=[Careless()])
    assert len(recorder.states) == 5
    for state in recorder.states:
        assert all(torch.count_nonzero(state[name][~mask]) == 0 for name, mask in masks.items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_masked_zeros_survive_a_kill_with_their_signs(
    recipe: str, network: MakeNetwork, data: Data, masks: Masks, tmp_path: Any
) -> None:
    """Not a bit differs, where −0.0 and 0.0 would compare equal."""

    class Killed(Exception):
        pass

    def kill(record: Any) -> None:
        if record.epoch == 3:
            raise Killed

    whole, resumed = network(), network()
    short = of_epochs(5, RECIPES[recipe])
    train(whole, data, short, masks=masks)
    file = tmp_path / "training.pt"
    with pytest.raises(Killed):
        train(
            network(),
            data,
            short,
            masks=masks,
            runtime=Runtime(checkpoint=Checkpoint(file, every=0)),
            callbacks=[OnEpoch(kill)],
        )
    assert (
        train(resumed, data, short, masks=masks, runtime=Runtime(checkpoint=Checkpoint(file, every=0))).resumed_at == 15
    )
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one.detach().view(torch.int32), two.detach().view(torch.int32))
    assert any(torch.signbit(whole.get_parameter(name).detach()[~mask]).any() for name, mask in masks.items())
