"""Memory that a step frees is kept for the next one, and given back after the training.

Page faults and resident bytes are those of a whole process, so they are counted in a process that does nothing else:
this file, run as a program.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import pytest
import torch
from torch import nn

from oneticket.training import OnEpoch, Recipe, train
from oneticket.training.runtime import kept_heap

MIB = 2**20
PR_SET_THP_DISABLE = 41  # of <linux/prctl.h>
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")


def page_faults() -> int:
    """The pages that this process has been given so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def faults(action: Callable[[], object]) -> int:
    """The pages that the process had to be given while ``action`` ran."""
    before = page_faults()
    action()
    return page_faults() - before


def large() -> None:
    """Memory of 128 MiB, taken, written to and given back."""
    bytearray(128 * MIB)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def faults_inside_and_outside() -> dict[str, int]:
    with kept_heap():
        large()
        kept = faults(large)
    return {"kept": kept, "outside": min(faults(large), faults(large))}


def resident_around_an_error() -> dict[str, int]:
    """Resident bytes above those at the beginning: inside, and after an error has ended it."""
    large()
    before = resident()
    try:
        with kept_heap():
            large()
            inside = resident()
            raise ValueError("in the middle")
    except ValueError:
        return {"inside": inside - before, "after": resident() - before}


def faults_of_an_epoch() -> dict[str, int]:
    """Of one step, with activations of 64 MiB: the median over the last twelve of twenty epochs.

    Where small blocks lie in the way of a large one, the heap grows by that one: often in the first epochs, later in
    one of ten, as seen in 16 processes.
    """
    features = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*features, nn.Flatten(), nn.Linear(16, 2))
    images, targets = torch.randn(16, 1, 256, 256), torch.randint(0, 2, (16,))
    seen = [page_faults()]
    recipe = Recipe(optimizer="sgd", lr=0.01, epochs=20, batch_size=16)
    train(model, (images, targets), recipe, callbacks=[OnEpoch(lambda _: seen.append(page_faults()))])
    by_epoch = [after - before for before, after in pairwise(seen)]
    return {"epoch": int(median(by_epoch[-12:]))}


@pytest.fixture(scope="module")
def measured() -> dict[str, int]:
    """What a process that does nothing else counts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_large_memory_is_taken_anew_outside_and_kept_inside(measured: dict[str, int]) -> None:
    assert measured["kept"] < 1000 < 10_000 < measured["outside"]


def test_what_was_kept_is_given_back_at_the_end_even_after_an_error(measured: dict[str, int]) -> None:
    assert measured["inside"] > 100 * MIB
    assert measured["after"] < 32 * MIB


def test_a_step_of_a_training_takes_the_memory_of_the_one_before(measured: dict[str, int]) -> None:
    """Without the heap that is kept every epoch faults some 16,000 pages for each activation of 64 MiB."""
    assert measured["epoch"] < 1000


if __name__ == "__main__":
    # Pages of 2 MiB, which some machines use for everything, would make too few faults to tell anything.
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    print(json.dumps(faults_inside_and_outside() | resident_around_an_error() | faults_of_an_epoch()))
