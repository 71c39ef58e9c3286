"""The sparse kernels against PyTorch's dense ones with masked weights, and against finite differences."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from oneticket.kernels.sparse import as_planes, building, is_planes, sparse_product
from oneticket.kernels.sparse.layout import from_planes, out_of_planes
from oneticket.kernels.sparse.pattern import Geometry, Pattern

pytestmark = pytest.mark.skipif(not building.available(), reason="no C compiler")


class Case(NamedTuple):
    images: int
    inputs: int
    outputs: int
    geometry: Geometry
    density: float
    seed: int = 0


@st.composite
def cases(draw: st.DrawFn) -> Case:
    pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride, size = draw(pair), draw(pair), draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    # PyTorch wants a kernel that fits into the padded image.
    kernel = tuple(min(k, s + 2 * p) for k, s, p in zip(kernel, size, padding, strict=True))
    images = draw(st.sampled_from([1, 2, 7, 15, 16, 17, 32, 50, 64, 100, 128, 150]))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.7, 1.0]))
    channels = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    return Case(images, *channels, Geometry(kernel, stride, padding, size), density, draw(st.integers(0, 999)))


def drawn(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Images, weights and a mask."""
    generator = torch.Generator().manual_seed(case.seed)
    shape = case.outputs, case.inputs, *case.geometry.kernel
    images = torch.randn(case.images, case.inputs, *case.geometry.size, generator=generator, dtype=torch.float64)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < case.density
    return images.to(dtype), weights.to(dtype), mask


def compare(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    """Outputs and gradients equal those of a dense float64 convolution, relative to their size."""
    images, weights, mask = drawn(case, dtype)
    stride, padding = case.geometry.stride, case.geometry.padding
    exact, dense = images.double().requires_grad_(), (weights * mask).double().requires_grad_()
    expected = F.conv2d(exact, dense, stride=stride, padding=padding)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected.backward(slope.double())
    inputs, values = images.requires_grad_(), weights[mask].requires_grad_()
    outputs = sparse_product(inputs, values, Pattern(mask, case.geometry))
    outputs.backward(slope)
    assert outputs.shape == expected.shape
    assert is_planes(outputs)
    for actual, wanted in ((outputs, expected), (inputs.grad, exact.grad), (values.grad, dense.grad[mask])):
        # Sums of many terms of either sign: rounding is relative to the largest number.
        scale = float(wanted.detach().abs().max()) if wanted.numel() else 0.0
        torch.testing.assert_close(actual.double(), wanted, rtol=0, atol=tolerance * scale)


@settings(max_examples=50)
@given(cases())
def test_outputs_and_gradients_are_those_of_a_dense_layer(case: Case) -> None:
    compare(case, torch.float32, 1e-5)


@pytest.mark.slow
@settings(max_examples=500)
@given(cases())
def test_outputs_and_gradients_of_many_layers(case: Case) -> None:
    compare(case, torch.float32, 1e-5)
    compare(case, torch.float64, 1e-13)


@pytest.mark.slow
def test_finite_differences() -> None:
    for stride, padding in (((1, 1), (1, 1)), ((2, 2), (1, 0)), ((3, 1), (0, 2))):
        case = Case(3, 2, 3, Geometry((3, 2), stride, padding, (5, 4)), 0.4)
        images, weights, mask = drawn(case, torch.float64)
        pattern = Pattern(mask, case.geometry)
        given_ = (images.requires_grad_(), weights[mask].requires_grad_())
        assert torch.autograd.gradcheck(lambda x, v, pattern=pattern: sparse_product(x, v, pattern), given_)


LARGE = [
    Case(128, 24, 20, Geometry((3, 3), (1, 1), (1, 1), (16, 16)), 0.2),
    Case(100, 40, 32, Geometry((3, 3), (2, 2), (1, 1), (9, 9)), 0.2),
    Case(128, 300, 200, Geometry((1, 1), (1, 1), (0, 0), (1, 1)), 0.3),
]


@pytest.mark.parametrize("case", LARGE)
def test_numbers_do_not_depend_on_threads(case: Case) -> None:
    images, weights, mask = drawn(case, torch.float32)
    pattern, results, before = Pattern(mask, case.geometry), [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            inputs, values = images.clone().requires_grad_(), weights[mask].requires_grad_()
            outputs = sparse_product(inputs, values, pattern)
            outputs.backward(outputs.detach())
        finally:
            torch.set_num_threads(before)
        results.append((outputs.detach(), inputs.grad, values.grad))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


def test_the_layout_of_inputs_and_gradients_does_not_matter() -> None:
    case = LARGE[1]
    images, weights, mask = drawn(case, torch.float32)
    pattern, results = Pattern(mask, case.geometry), []
    for layout in (torch.contiguous_format, torch.channels_last, None):
        laid = from_planes(as_planes(images)) if layout is None else images.contiguous(memory_format=layout)
        inputs, values = laid.detach().requires_grad_(), weights[mask].requires_grad_()
        outputs = sparse_product(inputs, values, pattern)
        outputs.backward(outputs.detach() if layout is None else outputs.detach().contiguous(memory_format=layout))
        results.append((outputs.detach(), inputs.grad, values.grad))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


@given(st.tuples(*[st.integers(1, 5)] * 4), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_there_and_back(shape: tuple[int, int, int, int], layout: torch.memory_format) -> None:
    images = torch.randn(shape).contiguous(memory_format=layout)
    planes = from_planes(as_planes(images))
    assert is_planes(planes)
    assert torch.equal(planes, images)
    back = out_of_planes(planes, layout)
    assert back.is_contiguous(memory_format=layout)
    assert torch.equal(back, images)
