"""Watching: a method that would never be called is refused, and an observer that does more than look is caught."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oneticket.errors import InputError
from oneticket.training import Callback, Observer, OnEpoch, Recipe, TrainState, train

RECIPE = Recipe.sgd(epochs=2, batch_size=11)
HOOKS = [
    ("on_epoch_ends", "on_epoch_end"),
    ("on_epoch_start", "on_epoch_end"),
    ("after_steps", "after_step"),
    ("before_backward", "before_forward"),
    ("penaltys", "penalty"),
    ("evaluation_weight", "evaluation_weights"),
    ("load_state_dicts", "load_state_dict"),
]


@pytest.mark.parametrize(("word", "nearest"), HOOKS)
@pytest.mark.parametrize("kind", [Callback, Observer])
def test_a_misspelt_moment_is_refused_with_the_nearest(
    kind: type[Callback], word: str, nearest: str, network: Any, data: Any
) -> None:
    misspelt = type("Misspelt", (kind,), {word: lambda *_: None})
    with pytest.raises(InputError, match=rf"the callback Misspelt has {word}, which") as caught:
        train(network(), data, RECIPE, callbacks=[misspelt()])
    assert caught.value.nearest == nearest


def test_methods_and_values_of_ones_own_are_left_alone(network: Any, data: Any) -> None:
    class Own(Observer):
        on_disk = "a path, which nobody calls"

        def _on_anything(self) -> None: ...
        def report(self) -> None: ...
        def close(self) -> None: ...

    assert train(network(), data, RECIPE, callbacks=[Own()]).steps == 4


def scaled(state: TrainState) -> None:
    with torch.no_grad():
        next(state.network.parameters()).mul_(1.01)


def scaled_unseen(state: TrainState) -> None:
    next(state.network.parameters()).data.mul_(1.01)


def loaded(state: TrainState) -> None:
    state.model.load_state_dict({name: tensor * 2 for name, tensor in state.model.state_dict().items()})


def counted(state: TrainState) -> None:
    next(state.network.buffers()).add_(1)


MOMENTS = ["on_train_start", "before_forward", "after_backward", "after_step", "on_step_end", "on_validation",
           "on_epoch_end", "on_train_end"]  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", [scaled, scaled_unseen, loaded, counted])
def test_an_observer_that_changes_the_network_is_refused(moment: str, change: Any, network: Any, data: Any) -> None:
    liar = type("Liar", (Observer,), {moment: lambda _, state: change(state)})
    with pytest.raises(
        InputError, match=rf"Liar has modifies = False, but its {moment} changed the network at step \d"
    ):
        train(network(), data, RECIPE, callbacks=[liar()])
    honest = type("Honest", (Callback,), {moment: lambda _, state: change(state)})
    assert train(network(), data, RECIPE, callbacks=[honest()]).steps == 4


def test_an_observer_may_look_at_everything(network: Any, data: Any, masks: Any) -> None:
    class Looking(Observer):
        def on_step_end(self, state: TrainState) -> None:
            state.model.state_dict()
            state.snapshot()

        def on_epoch_end(self, state: TrainState) -> None:
            state.model.eval()(data[0])
            state.model.train()

    seen: list[Any] = []
    watched = network()
    train(watched, data, RECIPE, masks=masks, callbacks=[Looking(), OnEpoch(seen.append)])
    plain = network()
    train(plain, data, RECIPE, masks=masks)
    assert len(seen) == 2
    assert all(
        torch.equal(a, b) for a, b in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True)
    )
