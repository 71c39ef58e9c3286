"""The tensor files of a cell: what is saved comes back, and anyone can read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from oneticket.lab.cells.tensors import load_masks, load_state, save_masks, save_state
from oneticket.masks import Masks

shapes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4)


def drawn(sizes: list[list[int]], seed: int) -> tuple[dict[str, torch.Tensor], Masks]:
    generator = torch.Generator().manual_seed(seed)
    state = {f"layer{i}.weight": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}
    masks = Masks({name: torch.rand(t.shape, generator=generator) < 0.4 for name, t in list(state.items())[::2]})
    return state, masks


@given(sizes=shapes, seed=st.integers(0, 1000))
def test_states_and_masks_come_back(tmp_path_factory: object, sizes: list[list[int]], seed: int) -> None:
    folder = tmp_path_factory.mktemp("tensors")  # type: ignore[attr-defined]
    state, masks = drawn(sizes, seed)
    save_masks(folder / "masks", masks)
    assert load_masks(folder / "masks") == masks
    save_state(folder / "whole", state)
    back = load_state(folder / "whole")
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    save_state(folder / "kept", state, masks)
    kept = load_state(folder / "kept", masks)
    for name, tensor in state.items():
        expected = torch.where(masks[name], tensor, torch.zeros(())) if name in masks else tensor
        assert torch.equal(kept[name], expected)


def test_only_kept_values_take_room(tmp_path: Path) -> None:
    state = {"a": torch.randn(100, 100)}
    masks = Masks({"a": torch.zeros(100, 100, dtype=torch.bool).index_fill(0, torch.tensor([7]), True)})
    save_state(tmp_path / "kept", state, masks)
    assert (tmp_path / "kept").stat().st_size < 1000
    assert not list(tmp_path.glob("*.writing"))


def test_a_file_is_read_with_safetensors_and_numpy_alone(tmp_path: Path) -> None:
    mask = torch.tensor([[True, False, True], [False, True, True]])
    save_masks(tmp_path / "masks", Masks({"a": mask}))
    with safe_open(tmp_path / "masks", framework="numpy") as file:
        shapes = json.loads(file.metadata()["oneticket"])["shapes"]
        bits = np.unpackbits(file.get_tensor("a"), count=6).reshape(shapes["a"])
    assert bits.tolist() == mask.int().tolist()
