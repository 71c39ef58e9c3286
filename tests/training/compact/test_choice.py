"""What was measured once stands: the bits of a training must not hang on who measured last."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from oneticket.masks import Masks
from oneticket.training.compact import choice
from oneticket.training.compact.choice import Choice


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(choice, "cache_home", lambda: tmp_path)
    return tmp_path


def test_the_first_of_two_processes_that_measured_at_once_decides() -> None:
    assert choice.known("key") is None
    first, second = Choice("key", ("a",), 2.0, 1.0), Choice("key", (), 1.0, 1.0)
    assert choice.settle(first) == first
    assert choice.settle(second) == first
    assert choice.known("key") == first


def test_without_a_cache_nothing_is_sparse(cache: Path) -> None:
    (cache / "kernels").write_text("a file where the folder should be")
    assert choice.settle(Choice("key", ("a",), 2.0, 1.0)).names == ()


def test_networks_of_nearly_equal_masks_share_a_choice() -> None:
    model, example = nn.Linear(100, 100), torch.zeros(8, 100)

    def key(kept: int) -> str:
        mask = torch.zeros(10_000, dtype=torch.bool)
        mask[:kept] = True
        masks = Masks({"weight": mask.view(100, 100)})
        return choice.key_of(model, masks, example, "float32", torch.contiguous_format)

    assert key(1000) == key(1010)
    assert key(1000) != key(800)
