"""Sparse layers compute what dense ones with masked weights do, forward and backward, and leave nothing behind."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from oneticket.training.compact.layers import Room, SparseConv2d, SparseLinear

KERNELS = [(1, 1), (3, 3), (5, 5), (3, 1), (1, 5)]
few = st.integers(1, 6)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(
    inputs: int, outputs: int, kernel: tuple[int, int], density: float, *, bias: bool = True, seed: int = 0
) -> tuple[nn.Conv2d, SparseConv2d, Tensor]:
    """A convolution whose masked weights are zero, the sparse one made from it, and the mask."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding="same", bias=bias).double()
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(seed)) < density
    with torch.no_grad():
        layer.weight.copy_(drawn(seed, *layer.weight.shape) * mask)
    return layer, SparseConv2d(layer, mask, Room()), mask


def images_of(seed: int, *shape: int) -> Tensor:
    return drawn(seed, *shape).requires_grad_()


def check(dense: Any, sparse: Any, weight: Tensor, mask: Tensor, inputs: Tensor, slope_seed: int = 5) -> None:
    """Outputs and all gradients agree; the dense gradient of a masked weight is nobody's business."""
    mine = inputs.detach().clone().requires_grad_()
    expected, outputs = dense(inputs), sparse(mine)
    assert outputs.shape == expected.shape
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    slope = drawn(slope_seed, *expected.shape)
    expected.backward(slope)
    sparse.bias = nn.Parameter(sparse.bias.detach().clone()) if sparse.bias is not None else None
    sparse(mine).backward(slope)
    torch.testing.assert_close(mine.grad, inputs.grad, rtol=1e-12, atol=1e-12)
    found = torch.zeros(mask.numel(), dtype=torch.float64)
    found[sparse.positions] = sparse.weight.grad
    assert weight.grad is not None
    torch.testing.assert_close(found.view(mask.shape), weight.grad * mask, rtol=1e-12, atol=1e-12)
    if sparse.bias is not None:
        torch.testing.assert_close(sparse.bias.grad, dense.bias.grad, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(few, few), kernel=st.sampled_from(KERNELS), area=st.tuples(few, few), count=st.integers(1, 3),
    density=st.floats(0, 1), bias=st.booleans(), last=st.booleans(), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_a_sparse_convolution_is_the_masked_one(
    channels: tuple[int, int], kernel: tuple[int, int], area: tuple[int, int], count: int, density: float, bias: bool,
    last: bool, seed: int,
) -> None:  # fmt: skip
    layer, sparse, mask = pair(*channels, kernel, density, bias=bias, seed=seed)
    images = drawn(seed + 1, count, channels[0], *area)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    check(layer, sparse, layer.weight, mask, images.requires_grad_())


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(few, few), shape=st.lists(few, min_size=1, max_size=3), density=st.floats(0, 1),
    bias=st.booleans(), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_a_sparse_linear_layer_is_the_masked_one(
    sizes: tuple[int, int], shape: list[int], density: float, bias: bool, seed: int
) -> None:
    layer = nn.Linear(*sizes, bias=bias).double()
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(seed)) < density
    with torch.no_grad():
        layer.weight.mul_(mask)
    check(layer, SparseLinear(layer, mask), layer.weight, mask, images_of(seed, *shape, sizes[0]))


def test_what_is_lent_is_given_back_clean() -> None:
    """Other sizes of batches, forward passes without a backward one, and two forward passes before both backward."""
    layer, sparse, _ = pair(4, 4, (3, 3), 0.4)
    for turn in range(3):
        first, second = images_of(turn, 3, 4, 5, 6), images_of(turn + 9, 3, 4, 5, 6)
        one, two = sparse(first), sparse(second)
        sparse(images_of(50, 2, 4, 6, 5))
        with torch.inference_mode():
            judged = sparse(first)
        (one.sum() + (two * two).sum()).backward()
        with torch.inference_mode():
            torch.testing.assert_close(judged, layer(first))
        same = [images.detach().clone().requires_grad_() for images in (first, second)]
        (layer(same[0]).sum() + layer(same[1]).square().sum()).backward()
        torch.testing.assert_close([first.grad, second.grad], [images.grad for images in same])


def test_matrices_are_lent_again() -> None:
    _, sparse, _ = pair(4, 6, (3, 3), 0.4)

    def step() -> set[int]:
        sparse(images_of(0, 3, 4, 5, 5)).sum().backward()
        return {matrix.data_ptr() for matrices in sparse.room._free.values() for matrix in matrices}

    assert step() == step()


def test_a_layer_trained_after_it_was_judged() -> None:
    _, sparse, _ = pair(4, 4, (3, 3), 0.4)
    with torch.inference_mode():
        sparse(drawn(0, 2, 4, 5, 5))
    sparse(images_of(0, 2, 4, 5, 5)).sum().backward()
    assert sparse.weight.grad.abs().sum() > 0


def test_inputs_that_need_no_gradient_get_none() -> None:
    _, sparse, _ = pair(4, 4, (3, 3), 0.4)
    images = drawn(0, 2, 4, 5, 5)
    sparse(images).sum().backward()
    assert images.grad is None
    assert sparse.weight.grad is not None


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_under_autocast_it_speaks_bf16_and_computes_in_float32(kind: str) -> None:
    if kind == "linear":
        layer: nn.Module = nn.Linear(6, 5)
        mask = torch.rand(5, 6) < 0.5
        sparse: nn.Module = SparseLinear(layer, mask)
        inputs = torch.randn(3, 6, requires_grad=True)
        expected = F.linear(inputs, layer.weight * mask, layer.bias)
    else:
        layer = nn.Conv2d(4, 5, 3, padding=1)
        mask = torch.rand(layer.weight.shape) < 0.5
        sparse = SparseConv2d(layer, mask, Room())
        inputs = torch.randn(3, 4, 6, 6, requires_grad=True)
        expected = F.conv2d(inputs, layer.weight * mask, layer.bias, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = sparse(inputs)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), expected, rtol=2e-2, atol=2e-2)
    outputs.float().sum().backward()
    assert (sparse.weight.grad.dtype, inputs.grad.dtype) == (torch.float32, torch.float32)


def test_it_gives_the_same_bits_each_time() -> None:
    _, sparse, _ = pair(16, 16, (3, 3), 0.1)
    results = []
    for _ in range(3):
        sparse.weight.grad = None
        images = images_of(0, 8, 16, 9, 9)
        outputs = sparse(images)
        outputs.square().sum().backward()
        results.append((outputs.detach(), images.grad, sparse.weight.grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_copies_compute_alike_and_share_nothing() -> None:
    _, sparse, _ = pair(4, 4, (3, 3), 0.4)
    images = drawn(0, 2, 4, 5, 5)
    expected = sparse(images)
    for other in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert torch.equal(other(images), expected)
        assert other.room is not sparse.room
        with torch.no_grad():
            other.weight.zero_()
    assert torch.equal(sparse(images), expected)


def test_nobody_is_warned_of_a_feature_that_he_did_not_ask_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, sparse, _ = pair(4, 4, (3, 3), 0.4)
        sparse(images_of(0, 2, 4, 5, 5)).sum().backward()
