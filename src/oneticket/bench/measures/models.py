"""A training step of every built-in model: how long it takes, its floor, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from msgspec.structs import replace

from oneticket.bench.measures.ceiling import Ceiling, Floor, floor
from oneticket.bench.measures.families import families
from oneticket.bench.measures.steps import time_ours
from oneticket.bench.outcome import ModelStep
from oneticket.bench.workload import Workload
from oneticket.errors import unknown
from oneticket.training.recipe import Precision

MODELS = (
    "lenet-300-100", "conv-2", "conv-4", "conv-6", "vgg11", "vgg16", "vgg19", "resnet20", "resnet32", "resnet56",
    "resnet18", "resnet50",
)  # fmt: skip

MOST_STEPS = 100
_EPOCH_MS = 400  # the floor of an epoch, unless a single step takes longer


def chosen_models(names: Sequence[str]) -> list[str]:
    """The models of these names, or all; InputError, with the nearest name, for an unknown one."""
    for name in names:
        if name not in MODELS:
            raise unknown("model", name, MODELS, where="--only")
    return [name for name in MODELS if name in names or not names]


def workload_of(model: str, precision: Precision) -> Workload:
    """128 colour images of 32 × 32, flipped and cropped; for lenet-300-100 grey ones of 28 × 28, as they are."""
    grey = model.startswith("lenet")
    shape = (1, 28, 28) if grey else (3, 32, 32)
    return Workload(model=model, precision=precision, shape=shape, augment=not grey, steps=1, epochs=2)


def steps_an_epoch(least: Floor) -> int:
    """Steps of an epoch: many for a small network, one for a network whose step takes longer than an epoch should."""
    return max(1, min(MOST_STEPS, int(_EPOCH_MS / max(least.compute_ms, least.memory_ms))))


def measure_models(
    models: Sequence[str], *, ceiling: Ceiling, bf16: bool, say: Callable[[str], None] = lambda _: None
) -> Iterator[ModelStep]:
    """A step of each model as it comes, in float32 and, where the processor has it, in bf16.

    For each, three epochs of which the last two are timed, then two epochs of which the last is profiled.
    """
    for model in models:
        for precision in get_args(Precision) if bf16 else ("float32",):
            say(f"{model}, {precision}")
            workload = workload_of(model, precision)
            least = floor(workload, ceiling)
            workload = replace(workload, steps=steps_an_epoch(least))
            yield ModelStep(
                model=model,
                precision=precision,
                batch_size=workload.batch_size,
                steps=workload.steps * workload.epochs,
                ms=1e3 * time_ours(workload),
                floor=least,
                families=families(replace(workload, epochs=1)),
            )
