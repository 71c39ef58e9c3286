"""The steps of the models: every built-in one, long enough to be timed, in the precisions that the processor has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneticket.bench.measures import models
from oneticket.bench.measures.ceiling import Ceiling, Floor
from oneticket.bench.measures.models import (
    MODELS,
    MOST_STEPS,
    chosen_models,
    measure_models,
    steps_an_epoch,
    workload_of,
)
from oneticket.bench.outcome import Family
from oneticket.bench.workload import Workload
from oneticket.errors import InputError
from oneticket.models import MODELS as REGISTERED

CEILING = Ceiling(float32=2e11, bf16=4e11, copy=3e10)


def test_every_built_in_model_is_profiled() -> None:
    """But for transformers, whose attention the floor does not know, and mlp, which takes features."""
    built_in = {
        entry.name for entry in REGISTERED.entries() if entry.function.__module__.startswith("oneticket.models.")
    }
    assert set(MODELS) == built_in - {"gpt", "vit", "mlp"}
    assert len(set(MODELS)) == len(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_of_128_images(name: str) -> None:
    workload = workload_of(name, "bf16")
    assert (workload.batch_size, workload.precision, workload.width) == (128, "bf16", 1.0)
    assert workload.shape == ((1, 28, 28) if name == "lenet-300-100" else (3, 32, 32))


@given(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5))
def test_epochs_are_long_enough_to_be_timed_and_no_longer(compute: float, memory: float) -> None:
    steps, one = steps_an_epoch(Floor(flops=1, bytes=1, compute_ms=compute, memory_ms=memory)), max(compute, memory)
    assert 1 <= steps <= MOST_STEPS
    assert steps == 1 or steps * one <= 400
    assert steps == MOST_STEPS or (steps + 1) * one > 400 * (1 - 1e-9)


def test_models_come_in_the_order_of_the_table() -> None:
    assert chosen_models([]) == list(MODELS)
    assert chosen_models(["vgg19", "lenet-300-100"]) == ["lenet-300-100", "vgg19"]
    with pytest.raises(InputError, match=r"--only: unknown model 'vgg20'.*did you mean 'vgg"):
        chosen_models(["vgg20"])


@pytest.mark.parametrize("bf16", [False, True])
def test_each_model_is_timed_and_profiled_as_soon_as_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    timed: list[Workload] = []
    part = Family(family="convolution", ms=1.0, share=1.0)
    monkeypatch.setattr(models, "time_ours", lambda workload: timed.append(workload) or 0.25)
    monkeypatch.setattr(models, "families", lambda workload: [part] * workload.epochs)
    found = measure_models(["lenet-300-100", "conv-2"], ceiling=CEILING, bf16=bf16)
    first = next(found)
    assert (first.model, first.precision, first.ms, first.families) == ("lenet-300-100", "float32", 250.0, [part])
    assert first.steps == 2 * timed[0].steps == 2 * MOST_STEPS
    assert len(timed) == 1, "the next is not measured before the first was kept"
    rest = [(entry.model, entry.precision) for entry in found]
    precisions = ["float32", "bf16"] if bf16 else ["float32"]
    assert [("lenet-300-100", "float32"), *rest] == [(m, p) for m in ("lenet-300-100", "conv-2") for p in precisions]
    assert [w.precision for w in timed] == precisions * 2
