"""A profile: each operator in one family, and the families together the whole step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from oneticket.bench.measures import families as module
from oneticket.bench.measures.families import BETWEEN, DATA, FAMILIES, OPTIMISER, OTHER, families, family_of
from oneticket.bench.measures.steps import time_ours
from oneticket.bench.rivals.ours import our_batches
from oneticket.bench.table import SHOWN
from oneticket.bench.workload import Workload
from oneticket.training.compact import layers as sparse_layers


@pytest.mark.parametrize(
    ("operator", "family"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "convolution"),
        ("aten::native_batch_norm", "normalisation"),
        ("NativeGroupNormBackward0", "normalisation"),
        ("aten::addmm", "linear"),
        ("aten::mm", "linear"),
        ("AddmmBackward0", "linear"),
        ("aten::add_", "elementwise"),
        ("aten::_fused_sgd_", OPTIMISER),
        ("aten::_foreach_mul_", OPTIMISER),
        ("Optimizer.step#SGD.step", OPTIMISER),
        ("aten::copy_", "copies and casts"),
        ("aten::clamp_min", "activation and pooling"),
        ("aten::threshold_backward", "activation and pooling"),
        ("aten::max_pool2d_with_indices", "activation and pooling"),
        ("aten::_log_softmax", "loss"),
        (DATA, DATA),
        ("something", OTHER),
    ],
)
def test_operators_belong_to_families(operator: str, family: str) -> None:
    assert family_of(operator) == family


def test_where_an_operator_happens_comes_before_its_name() -> None:
    assert family_of("aten::mul_", ("aten::mul_", DATA)) == DATA
    assert family_of("aten::copy_", ("Optimizer.step#SGD.step",)) == OPTIMISER
    assert family_of("aten::copy_", ("aten::convolution_backward",)) == "copies and casts"


def test_sparse_layers_are_those_that_they_stand_for() -> None:
    """By the names of their autograd functions, which are private to the training loop."""
    assert sparse_layers._Convolution.__name__ == "_Convolution"
    assert sparse_layers._Linear.__name__ == "_Linear"
    for part in ("", "Backward"):
        assert family_of("aten::addmm", ("aten::addmm", f"_Convolution{part}")) == "convolution"
        assert family_of("aten::copy_", (f"_Linear{part}",)) == "linear"


def test_the_families_of_the_table_are_some_of_these() -> None:
    assert {*SHOWN} < {*FAMILIES, DATA}


@pytest.mark.slow
@pytest.mark.parametrize("density", [1.0, 0.2])
def test_the_shares_of_a_profile_are_the_whole_step(tiny: Workload, density: float) -> None:
    found = families(tiny, replace(tiny, density=density).masks())
    assert sum(entry.share for entry in found) == pytest.approx(1)
    assert {entry.family for entry in found} <= {*FAMILIES, DATA, BETWEEN, OTHER}
    shares = {entry.family: entry.share for entry in found}
    assert min(shares[family] for family in ("convolution", "normalisation", OPTIMISER, DATA, BETWEEN)) > 0.005
    assert [entry.ms for entry in found] == sorted((entry.ms for entry in found), reverse=True)


@pytest.mark.slow
def test_milliseconds_are_those_of_one_step(tiny: Workload) -> None:
    """Of steps that wait for their data, so that other things that the machine does matter little."""
    waiting, slept = 0.05, []

    class Slow(SimpleNamespace):
        def epoch(self, *generators: torch.Generator) -> Iterator[Any]:
            for batch in our_batches(tiny).epoch(*generators):
                time.sleep(waiting)
                slept.append(1)
                yield batch

    with pytest.MonkeyPatch.context() as patch:
        numbers = {"batch_size": tiny.batch_size, "samples": 24, "steps_per_epoch": 3, "ordered": lambda: iter(())}
        patch.setattr(module, "our_batches", lambda *_: Slow(**numbers))
        first, *_ = families(replace(tiny, epochs=2))
    assert len(slept) == 3 * tiny.steps
    assert first.family == DATA
    assert 1e3 * waiting <= first.ms < 2e3 * waiting
    assert first.share > 0.3
    assert time_ours(tiny) > 0
