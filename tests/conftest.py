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
