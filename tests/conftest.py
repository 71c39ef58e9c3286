"""What every test may rely on: one thread, networks by name, and the place of the real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import nn

torch.set_num_threads(1)
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image data beside the repository.

    Where it is missing, the test is skipped. In CI it fails, unless ``ONETICKET_REAL_DATA=absent`` says that this
    machine has none.
    """
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("CI") and os.environ.get("ONETICKET_REAL_DATA") != "absent":
            pytest.fail(f"real data not found at {folder}")
        pytest.skip(f"real data not found at {folder}")
    return folder


@pytest.fixture(scope="session")
def built() -> Callable[..., nn.Module]:
    """``built("vgg11", (3, 32, 32), width=0.1)``: a registered network of 5 classes, drawn from ``seed``."""
    from oneticket.models import ModelSpec, build

    def make(name: str, shape: tuple[int, int, int], *, seed: int = 0, **options: object) -> nn.Module:
        return build(ModelSpec(name=name, options=options), input_shape=shape, classes=5, seed=seed)

    return make
