"""Work is divided among threads that outlive a call, but not a fork."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from oneticket.kernels.sparse import building, sparse_product, threads
from oneticket.kernels.sparse.pattern import Geometry, Pattern

pytestmark = pytest.mark.skipif(not building.available(), reason="no C compiler")


@pytest.fixture(autouse=True)
def several(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(threads, "_WORTH", 0)
    yield
    torch.set_num_threads(before)


def layer() -> tuple[Tensor, Tensor, Pattern]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(9, 8, 3, 3, generator=generator) < 0.3
    mask[4:] &= torch.rand(5, 8, 3, 3, generator=generator) < 0.1
    images = torch.randn(32, 8, 7, 7, generator=generator)
    return (
        images,
        torch.randn(int(mask.sum()), generator=generator),
        Pattern(mask, Geometry((3, 3), (1, 1), (1, 1), (7, 7))),
    )


def computed() -> list[Tensor]:
    images, values, pattern = layer()
    outputs = sparse_product(images.requires_grad_(), values.requires_grad_(), pattern)
    return [outputs.detach(), *torch.autograd.grad(outputs.square().sum(), (images, values))]


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_of_fork_has_threads_of_its_own() -> None:
    expected = computed()
    child = os.fork()
    if child == 0:
        os._exit(0 if all(equal(computed(), expected) for _ in range(20)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert equal(computed(), expected)


def test_callers_at_once_do_not_disturb_each_other() -> None:
    expected = computed()
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda _: [computed() for _ in range(10)], range(4)))
    assert all(equal(each, expected) for several in found for each in several)


def test_as_many_threads_as_are_asked_for_at_last() -> None:
    expected = computed()
    for count in (1, 7, 2, 16, 3):
        torch.set_num_threads(count)
        assert equal(computed(), expected)


def test_parts_have_equally_many_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[int] = []
    library = SimpleNamespace(slopes=None, divide=lambda _, __, bounds, *___: cuts.extend(bounds))
    monkeypatch.setattr(threads, "library", lambda _: library)
    mask = torch.zeros(40, 30, 1, 1, dtype=torch.bool)
    mask[:10], mask[10:, :2] = True, True
    before = Pattern(mask, Geometry((1, 1), (1, 1), (0, 0), (1, 1))).before
    assert list(np.diff(before)) == [30] * 10 + [2] * 30
    threads.divided("slopes", "float", (), 40, 1, before)
    assert (cuts[0], cuts[-1], len(cuts)) == (0, 40, 13)
    assert np.diff(before[cuts]).max() <= 360 / 12 + 30, "no more than its share and one output"
