"""Memory that a step frees is kept for the next one, and given back after the training."""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable

import pytest
import torch
from torch import nn

from oneticket.training import OnEpoch, Recipe, train
from oneticket.training.runtime import kept_heap

MIB = 2**20
only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")


def faults(action: Callable[[], object]) -> int:
    """The pages that the process had to be given while ``action`` ran."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    action()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def large() -> None:
    """Memory of 128 MiB, taken, written to and given back."""
    bytearray(128 * MIB)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@only_glibc
def test_large_memory_is_taken_anew_outside_and_kept_inside() -> None:
    with kept_heap():
        large()
        kept = faults(large)
    outside = [faults(large), faults(large)]
    assert kept < 1000 < 10_000 < min(outside)


@only_glibc
def test_what_was_kept_is_given_back_at_the_end_even_after_an_error() -> None:
    large()
    before = resident()

    def fail() -> None:
        with kept_heap():
            large()
            assert resident() > before + 100 * MIB
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert resident() < before + 32 * MIB


@only_glibc
def test_a_step_of_a_training_takes_the_memory_of_the_one_before() -> None:
    """Activations of 64 MiB: without the heap that is kept every epoch faults some 16,000 pages for each of them."""
    features = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*features, nn.Flatten(), nn.Linear(16, 2))
    images, targets = torch.randn(16, 1, 256, 256), torch.randint(0, 2, (16,))
    seen = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
    train(
        model,
        (images, targets),
        Recipe(optimizer="sgd", lr=0.01, epochs=4, batch_size=16),
        callbacks=[OnEpoch(lambda _: seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt))],
    )
    last = seen[-1] - seen[-2]
    assert last < 10_000
