"""The ceiling and the floor: operations and bytes counted by hand."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from oneticket.bench.measures.ceiling import Ceiling, floor, measure_ceiling
from oneticket.bench.rows import STEPS
from oneticket.bench.workload import Workload
from oneticket.masks import Masks

CEILING = Ceiling(float32=1e12, bf16=4e12, copy=1e10)
LENET = STEPS["lenet"].full


def test_the_floor_of_a_lenet_step() -> None:
    found = floor(LENET, CEILING)
    weights = 784 * 300 + 300 * 100 + 100 * 10
    assert found.flops == 3 * 2 * weights * 128
    through = (784 + 300) + (300 + 100) + (100 + 10)
    assert found.bytes == 3 * 4 * 128 * through + 8 * 4 * (weights + 300 + 100 + 10)
    assert found.compute_ms == pytest.approx(1e3 * found.flops / 1e12)
    assert found.memory_ms == pytest.approx(1e3 * found.bytes / 1e10)


def test_bf16_halves_the_activations_and_has_a_rate_of_its_own() -> None:
    full, half = floor(LENET, CEILING), floor(replace(LENET, precision="bf16"), CEILING)
    through = (784 + 300) + (300 + 100) + (100 + 10)
    assert full.bytes - half.bytes == 3 * 2 * 128 * through
    assert half.compute_ms == pytest.approx(full.compute_ms / 4)


def test_masks_leave_the_operations_and_bytes_of_kept_weights() -> None:
    masks = Masks({"linear1.weight": torch.arange(784 * 300).view(300, 784) % 2 == 0})
    found, dense = floor(LENET, CEILING, masks), floor(LENET, CEILING)
    assert dense.flops - found.flops == 3 * 2 * 784 * 300 // 2 * 128
    assert found.bytes == 8 * 4 * (784 * 300 // 2 + 300 * 100 + 100 * 10 + 300 + 100 + 10)


def test_convolutions_are_counted_where_their_weights_act() -> None:
    workload = Workload(model="vgg11", width=0.125, shape=(3, 32, 32), steps=1, batch_size=2)
    channels, sides, inputs, flops = (8, 16, 32, 32, 64, 64, 64, 64), (32, 16, 8, 8, 4, 4, 2, 2), 3, 0
    for outputs, side in zip(channels, sides, strict=True):
        flops += 2 * 9 * inputs * outputs * side**2
        inputs = outputs
    assert floor(workload, CEILING).flops == 3 * 2 * (flops + 2 * 64 * 10)


def test_the_ceiling_of_this_machine_is_measured() -> None:
    found = measure_ceiling(small=True)
    assert min(found.float32, found.bf16, found.copy) > 1e6
