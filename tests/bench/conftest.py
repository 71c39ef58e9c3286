"""Workloads small enough for tests."""

from __future__ import annotations

import pytest

from oneticket.bench.workload import Workload


@pytest.fixture
def tiny() -> Workload:
    """A residual network of a few channels on pictures of 8 × 8: three batches of 8 an epoch."""
    return Workload(model="resnet20", width=0.25, shape=(3, 8, 8), steps=3, epochs=1, batch_size=8)
