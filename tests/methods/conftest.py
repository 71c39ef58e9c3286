"""What the tests of methods share: a small network in double precision, its data, and a course to act on by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.randomness import Streams, seeded
from oneticket.training import Course, MaskKeeper

MakeCourse = Callable[..., Course]


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
def course_of() -> MakeCourse:
    """A factory of courses of 40 steps, 10 an epoch, over a network with full masks unless others are given."""

    def make(model: nn.Module, masks: Masks | None = None, *, steps: int = 40, first: int = 0) -> Course:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        weights = dict(Prunable(model).weights())
        kept = Masks.full(weights) if masks is None else masks
        keeper = MaskKeeper(optimizer, [(weights[name], mask) for name, mask in kept.items()])
        streams = Streams(0)
        return Course(
            model=model,
            optimizer=optimizer,
            keeper=keeper,
            names=tuple(kept),
            steps=steps,
            first=first,
            per_epoch=10,
            samples=80,
            generator=lambda *keys: streams.generator("mask", *keys),
        )

    return make
