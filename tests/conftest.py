"""What every test may rely on: one thread, and the place of the real data."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image data beside the repository; missing in CI is a failure, elsewhere a skip."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"real data not found at {folder}")
        pytest.skip(f"real data not found at {folder}")
    return folder
