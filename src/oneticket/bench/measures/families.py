"""A profile of a training step: the time that each family of operators takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from oneticket.bench.outcome import Family
from oneticket.bench.rivals.ours import our_batches, train_ours
from oneticket.bench.workload import Workload
from oneticket.data import BatchSource
from oneticket.masks import Masks

DATA, OPTIMISER, OTHER = "data", "optimiser and masks", "other operators"
BETWEEN = "between operators"
"""The rest of the time: Python, and the calls of operators."""

# In this order: a name, in small letters and without underscores, belongs to the first family with a word that it has.
FAMILIES: dict[str, tuple[str, ...]] = {
    OPTIMISER: ("fused", "foreach"),
    "convolution": ("conv",),
    "normalisation": ("batchnorm", "groupnorm"),
    "linear": ("addmm", "::mm", "mmbackward", "bmm", "matmul", "linear"),
    "loss": ("softmax", "nllloss", "crossentropy"),
    "activation and pooling": ("relu", "clampmin", "threshold", "pool", "mean"),
    "copies and casts": ("copy", "contiguous", "clone", "::to", "fill", "zero", "empty", "pad"),
    "elementwise": ("add", "mul", "sub", "div", "sum"),
}


# By the beginning of a name: every operator within it belongs to this family.
_PARTS = {"Optimizer.step": OPTIMISER, "_Convolution": "convolution", "_Linear": "linear"}


def family_of(operator: str, within: tuple[str, ...] = ()) -> str:
    """The family of an operator of torch, by its name and by those of the operators and parts that it is ``within``.

    >>> family_of("aten::convolution_backward"), family_of("aten::index_select", ("data",))
    ('convolution', 'data')
    """
    if DATA in (operator, *within):
        return DATA
    for outer in (operator, *within):
        for beginning, family in _PARTS.items():
            if outer.startswith(beginning):
                return family
    plain = operator.lower().replace("_", "")
    return next((name for name, words in FAMILIES.items() if any(word in plain for word in words)), OTHER)


class _Marked:
    """Batches whose making appears in the profile under ``DATA``."""

    def __init__(self, source: BatchSource) -> None:
        self.source = source
        self.batch_size, self.samples = source.batch_size, source.samples
        self.steps_per_epoch = source.steps_per_epoch

    def epoch(self, order: torch.Generator, augmentation: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.source.epoch(order, augmentation)
        while True:
            with record_function(DATA):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def ordered(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.source.ordered()


def families(workload: Workload, masks: Masks | None = None, device: str = "cpu") -> list[Family]:
    """Milliseconds of a step that each family takes itself, data included, the largest first.

    The mean over all epochs of a training but the first. On a CPU the parts add up to the time that passed; on a GPU
    to the time of its kernels. Profiling itself slows small operators.
    """
    recipe = workload.recipe()
    profiler = profile(activities=[ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else []))
    seconds = 0.0
    with ExitStack() as stack:

        def after_epoch(epoch: int) -> None:
            nonlocal seconds
            if epoch == 1:
                stack.enter_context(profiler)
                seconds = -time.perf_counter()
            if epoch == recipe.epochs:
                seconds += time.perf_counter()
                stack.close()

        batches = _Marked(our_batches(workload, device))
        train_ours(workload.network(), batches, recipe, masks=masks, device=device, after_epoch=after_epoch)
    spent: dict[str, float] = {}
    for event in profiler.events():  # type: ignore[no-untyped-call]
        if event.device_type.name != "CPU":  # kernels count with the operators that started them
            continue
        microseconds = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        family = family_of(event.name, _around(event))
        spent[family] = spent.get(family, 0.0) + microseconds / 1e6
    if device == "cpu":
        spent[BETWEEN] = max(seconds - sum(spent.values()), 0.0)
    total, steps = sum(spent.values()), workload.steps * (recipe.epochs - 1)
    found = [Family(family=name, ms=1e3 * s / steps, share=s / total) for name, s in spent.items()]
    return sorted(found, key=lambda entry: -entry.ms)


def _around(event: Any) -> tuple[str, ...]:
    """The names of the events around an event, the innermost first."""
    names = []
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    return tuple(names)
