"""Masks: the laws of their algebra, exact counts, permutations that move something, packing that loses nothing."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from oneticket.errors import InputError
from oneticket.masks import Masks


def boolean(shape: tuple[int, ...]) -> st.SearchStrategy[torch.Tensor]:
    return hnp.arrays(np.bool_, shape).map(torch.from_numpy)


SHAPES = st.dictionaries(
    st.sampled_from(["conv.weight", "fc1.weight", "fc2.weight"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    max_size=3,
)


@st.composite
def several(draw: st.DrawFn, count: int) -> list[Masks]:
    """Masks over the same tensors."""
    shapes = draw(SHAPES)
    return [Masks({name: draw(boolean(shape)) for name, shape in shapes.items()}) for _ in range(count)]


@st.composite
def one(draw: st.DrawFn) -> Masks:
    return draw(several(1))[0]


def half(*shapes: tuple[int, ...]) -> Masks:
    """Masks whose first half is kept, in each tensor."""
    tensors = {}
    for i, shape in enumerate(shapes):
        flat = torch.zeros(int(np.prod(shape)), dtype=torch.bool)
        flat[: flat.numel() // 2] = True
        tensors[f"layer{i}"] = flat.view(shape)
    return Masks(tensors)


# -- the algebra ---------------------------------------------------------------------------------------------------
@given(several(3))
def test_boolean_algebra(masks: list[Masks]) -> None:
    a, b, c = masks
    assert (a & b) == (b & a)
    assert (a | b) == (b | a)
    assert (a & (b | c)) == ((a & b) | (a & c))
    assert (a | (b & c)) == ((a | b) & (a | c))
    assert ~(a & b) == (~a | ~b)
    assert ~~a == a
    assert (a - b) == (a & ~b)
    assert (a & ~a).kept == 0
    assert (a | ~a).kept == a.total


@given(several(2))
def test_counting_agrees_with_the_algebra(masks: list[Masks]) -> None:
    a, b = masks
    assert a.kept == sum(int(np.count_nonzero(t.numpy())) for t in a.values())
    assert a.kept + (~a).kept == a.total == sum(t.numel() for t in a.values())
    assert (a | b).kept + (a & b).kept == a.kept + b.kept
    assert (a - b).kept == a.kept - (a & b).kept


@given(several(2))
def test_order_is_inclusion(masks: list[Masks]) -> None:
    a, b = masks
    assert (a & b) <= a <= (a | b)
    assert (a <= b) == ((a & b) == a) == ((a - b).kept == 0)


@given(several(2))
def test_operations_leave_their_operands_alone(masks: list[Masks]) -> None:
    a, b = masks
    before = {name: t.clone() for name, t in a.items()}
    _ = (a & b, a | b, a - b, ~a, a.permuted(torch.Generator(), within="layer"), a.packed())
    assert a == Masks(before)


def test_difference_and_inclusion_are_not_symmetric() -> None:
    small, large = (Masks({"w": torch.tensor(bits)}) for bits in ([True, False, False], [True, True, False]))
    assert small <= large
    assert not large <= small
    assert (large - small)["w"].tolist() == [False, True, False]
    assert (small - large).kept == 0


def test_masks_over_different_tensors_do_not_mix() -> None:
    a, b = Masks({"a": torch.ones(2, dtype=torch.bool)}), Masks({"b": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(InputError, match="tensor 'a' is in only one of the two masks"):
        _ = a & b
    with pytest.raises(InputError, match="tensor 'b' is in only one"):
        _ = a | Masks({**a, **b})
    with pytest.raises(InputError, match=r"\(2,\) and \(1,\); expected equal shapes"):
        _ = a & Masks({"a": torch.ones(1, dtype=torch.bool)})
    assert a != b
    assert a != "masks"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_only_booleans_are_masks(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"mask 'w' has dtype .*; expected torch.bool"):
        Masks({"w": torch.ones(2, dtype=dtype)})


# -- counting ------------------------------------------------------------------------------------------------------
def test_the_table_tells_collapse_from_emptiness() -> None:
    none = {"gone": torch.zeros(3, dtype=torch.bool), "empty": torch.zeros(0, dtype=torch.bool)}
    masks = Masks({**none, **half((2, 2))})
    assert masks.table() == [("gone", 0, 3, 0.0), ("empty", 0, 0, 1.0), ("layer0", 2, 4, 0.5)]
    assert masks.densities() == {"gone": 0.0, "empty": 1.0, "layer0": 0.5}
    assert masks.collapsed() == ["gone"]
    assert (masks.kept, masks.total, masks.density) == (2, 7, 2 / 7)
    assert "2 of 7 kept" in repr(masks)


@given(one())
def test_full_keeps_everything(masks: Masks) -> None:
    full = Masks.full(masks)
    assert full.kept == full.total == masks.total
    assert full.density == 1.0
    assert masks <= full


@given(several(2))
def test_overlap_is_intersection_over_union(masks: list[Masks]) -> None:
    a, b = masks
    left = {(name, i) for name, t in a.items() for i in t.flatten().nonzero().flatten().tolist()}
    right = {(name, i) for name, t in b.items() for i in t.flatten().nonzero().flatten().tolist()}
    expected = len(left & right) / len(left | right) if left | right else 1.0
    assert a.overlap(b) == b.overlap(a) == expected


def test_overlap_of_random_masks_is_what_chance_gives() -> None:
    rho, n, generator = 0.2, 200_000, torch.Generator().manual_seed(0)
    a = Masks({"w": torch.arange(n) < rho * n}).permuted(generator, within="network")
    b = a.permuted(generator, within="network")
    # The intersection has mean ρ²n and standard deviation < ρ√n, so 4 deviations of the ratio are below 0.002.
    assert a.overlap(b) == pytest.approx(rho / (2 - rho), abs=0.002)


# -- permutation ---------------------------------------------------------------------------------------------------
@given(one(), st.integers(0, 2**31))
def test_permutations_keep_counts_and_shapes(masks: Masks, seed: int) -> None:
    layer = masks.permuted(torch.Generator().manual_seed(seed), within="layer")
    network = masks.permuted(torch.Generator().manual_seed(seed), within="network")
    assert layer.table() == masks.table()
    assert network.kept == masks.kept
    assert [(n, t.shape) for n, t in network.items()] == [(n, t.shape) for n, t in masks.items()]


@pytest.mark.parametrize("within", ["layer", "network"])
def test_permutations_move_something_and_follow_their_generator(within: str) -> None:
    masks = half((16, 16), (5, 3, 3, 3))
    first, again, other = (masks.permuted(torch.Generator().manual_seed(s), within=within) for s in (0, 0, 1))
    assert first == again
    assert first != other
    for name in masks:
        assert not torch.equal(first[name], masks[name])


def test_permuting_the_network_moves_weights_between_layers() -> None:
    masks = Masks({"full": torch.ones(500, dtype=torch.bool), "none": torch.zeros(500, dtype=torch.bool)})
    kept = masks.permuted(torch.Generator().manual_seed(0), within="network").table()[0].kept
    # Hypergeometric: mean 250, standard deviation √(1000/16) ≈ 7.9.
    assert abs(kept - 250) < 40
    assert masks.permuted(torch.Generator().manual_seed(0), within="layer") == masks


@pytest.mark.parametrize("within", ["layer", "network"])
def test_permutations_are_uniform(within: str) -> None:
    generator, draws = torch.Generator().manual_seed(0), 2000
    masks = Masks({"w": torch.tensor([[True, False, False], [False, False, True]])})
    hits = sum(masks.permuted(generator, within=within)["w"].double() for _ in range(draws))
    deviation = (1 / 3 * 2 / 3 / draws) ** 0.5
    assert ((hits / draws - 1 / 3).abs() < 4 * deviation).all()


def test_nothing_is_permuted_within_an_unknown_place() -> None:
    with pytest.raises(InputError, match="within"):
        half((2, 2)).permuted(torch.Generator(), within="channel")


# -- packing -------------------------------------------------------------------------------------------------------
@given(one())
def test_packing_loses_nothing(masks: Masks) -> None:
    packed = masks.packed()
    assert Masks.unpacked(packed, {name: t.shape for name, t in masks.items()}) == masks
    assert all(packed[n].dtype == torch.uint8 and packed[n].numel() == -(-t.numel() // 8) for n, t in masks.items())


@given(st.lists(st.booleans(), max_size=40))
def test_the_packed_form_is_the_documented_one(bits: list[bool]) -> None:
    """Eight entries a byte, the first in the highest bit, the rest of the last byte zero."""
    padded = bits + [False] * (-len(bits) % 8)
    expected = [sum(b << (7 - i) for i, b in enumerate(padded[at : at + 8])) for at in range(0, len(padded), 8)]
    assert Masks({"w": torch.tensor(bits, dtype=torch.bool)}).packed()["w"].tolist() == expected


def test_memory_order_does_not_matter() -> None:
    plain = half((4, 3, 2, 2))
    strided = Masks({n: t.contiguous(memory_format=torch.channels_last) for n, t in plain.items()})
    assert strided.packed()["layer0"].tolist() == plain.packed()["layer0"].tolist()
    transposed = Masks({"w": torch.tensor([[True, False, True]]).t()})
    assert transposed.packed()["w"].tolist() == [0b10100000]
    same = [m.permuted(torch.Generator().manual_seed(0), within="layer") for m in (plain, strided)]
    assert same[0] == same[1]


@pytest.mark.parametrize("bits", [torch.zeros(3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32)])
def test_packed_masks_of_another_size_are_refused(bits: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"packed mask 'w' has . bytes; expected 2"):
        Masks.unpacked({"w": bits}, {"w": (3, 3)})


@given(one())
def test_copies_and_pickles_are_equal(masks: Masks) -> None:
    assert pickle.loads(pickle.dumps(masks)) == copy.deepcopy(masks) == copy.copy(masks) == masks


# -- of a network pruned elsewhere ------------------------------------------------------------------------------
def test_the_masks_of_a_network_are_where_its_matrices_are_not_zero() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(4, 3, padding_idx=0), torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight[0, 1] = model[1].weight[2, 2] = 0
        model[1].bias.zero_()
    masks = Masks.of(model)
    assert list(masks) == ["1.weight"]
    assert (~masks["1.weight"]).nonzero().tolist() == [[0, 1], [2, 2]]
    torch.nn.utils.prune.l1_unstructured(model[2], "weight", amount=4)
    model[2].weight_orig.data[model[2].weight_mask == 1] = 0  # kept by its mask, though zero for the moment
    assert Masks.of(model)["2.weight"].sum() == 2
    torch.nn.utils.prune.remove(model[2], "weight")
    assert Masks.of(model)["2.weight"].sum() == 0


def test_a_dense_network_has_no_masks_to_read() -> None:
    with pytest.raises(InputError, match=r"Masks\.of: Linear has no weight that is exactly zero"):
        Masks.of(torch.nn.Linear(3, 3))
