"""What the tests of methods share: a small network in double precision, its data, and a training to act on by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oneticket.data import as_batches
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.randomness import Streams, seeded
from oneticket.training import CallbackList, Recipe, Runtime, Start, TrainState
from oneticket.training.objectives import Objective
from oneticket.training.start import Timetable

MakeState = Callable[..., TrainState]


@pytest.fixture
def small() -> Callable[..., nn.Sequential]:
    """A factory of networks: two prunable layers of 12 and 20 weights, a normalisation, a head."""

    def make(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
        with seeded(seed):
            model = nn.Sequential(
                nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)
            )
        return model.to(dtype)

    return make


@pytest.fixture(scope="session")
def samples() -> tuple[Tensor, Tensor]:
    """Eight samples in two classes."""
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long()


@pytest.fixture
def state_of() -> MakeState:
    """A factory of trainings of 40 steps, 10 an epoch, of a network with full masks unless others are given."""

    def make(model: nn.Module, masks: Masks | None = None, *, steps: int = 40, first: int = 0) -> TrainState:
        kept = Masks.full(dict(Prunable(model).weights())) if masks is None else masks
        data = as_batches((torch.zeros(80, 3, dtype=torch.float64), torch.zeros(80, dtype=torch.int64)), 8)
        times = Timetable(first=first, total=steps, per_epoch=10, lr=lambda _: 0.1)
        recipe, plain = Recipe.sgd(epochs=4, lr=0.1, momentum=0.9, weight_decay=0.0), Runtime(compact=False)
        nobody, asked = CallbackList([]), Objective()
        return TrainState(
            model,
            kept,
            recipe,
            data,
            times,
            Start(),
            plain,
            objective=asked,
            callbacks=nobody,
            streams=Streams(0),
        )

    return make
