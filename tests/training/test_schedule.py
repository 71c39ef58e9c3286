"""Schedules: the learning rate at each step, literally."""

from __future__ import annotations

import math

import msgspec
import pytest

from oneticket.errors import InputError
from oneticket.training import Constant, Cosine, Schedule, Step, StepDecay
from oneticket.training.schedule import learning_rates


def rates(
    schedule: Schedule, *, warmup: str = "0it", lr: float = 0.4, epochs: int = 4, per_epoch: int = 2
) -> list[float]:
    total = epochs * per_epoch
    rate = learning_rates(schedule, lr, Step.parse(warmup), total, per_epoch)
    return [rate(step) for step in range(total)]


def test_constant() -> None:
    assert rates(Constant()) == [0.4] * 8


def test_step_decay_falls_at_each_moment_and_not_before() -> None:
    found = rates(StepDecay(at=("1ep", "2ep1it", "7it"), decay=0.5))
    assert found == [0.4, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1, 0.05]


def test_step_decay_as_in_the_paper() -> None:
    """VGG19: learning rate 0.1 for 160 epochs, divided by ten at epochs 80 and 120 (Morcos et al. 2019)."""
    rate = learning_rates(StepDecay(at=("80ep", "120ep")), 0.1, Step(), 160 * 98, 98)
    at = {0: 0.1, 80 * 98 - 1: 0.1, 80 * 98: 0.01, 120 * 98 - 1: 0.01, 120 * 98: 0.001, 160 * 98 - 1: 0.001}
    assert {step: rate(step) for step in at} == pytest.approx(at, rel=1e-12)


def test_cosine_begins_at_one_is_half_in_the_middle_and_ends_just_above_zero() -> None:
    found = rates(Cosine())
    assert found == pytest.approx([0.4 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)], rel=1e-12)
    assert found[0] == 0.4
    assert found[4] == pytest.approx(0.2)
    assert 0 < found[7] < 0.02


def test_cosine_ends_at_its_final_fraction() -> None:
    rate = learning_rates(Cosine(final=0.25), 0.4, Step(), 8, 2)
    assert rate(8) == pytest.approx(0.1)
    assert rate(4) == pytest.approx(0.4 * (0.25 + 0.75 / 2))


@pytest.mark.parametrize("warmup", ["2ep", "4it", "1ep2it"])
def test_warm_up_climbs_linearly_over_epochs_or_steps(warmup: str) -> None:
    assert rates(Constant(), warmup=warmup) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])


def test_warm_up_multiplies_the_schedule() -> None:
    assert rates(StepDecay(at=("1it",), decay=0.5), warmup="2it")[:3] == pytest.approx([0.2, 0.2, 0.2])


def test_a_file_names_the_kind() -> None:
    found = msgspec.convert({"kind": "step", "at": ["6ep", "8ep"], "factor": 0.2}, Schedule)
    assert found == StepDecay(at=("6ep", "8ep"), decay=0.2)
    assert msgspec.to_builtins(found) == {"kind": "step", "at": ("6ep", "8ep"), "factor": 0.2}
    assert msgspec.convert({"kind": "cosine"}, Schedule) == Cosine(final=0.0)
    with pytest.raises(msgspec.ValidationError, match="poly"):
        msgspec.convert({"kind": "poly"}, Schedule)
    with pytest.raises(msgspec.ValidationError, match="gamma"):
        msgspec.convert({"kind": "step", "at": ["6ep"], "gamma": 0.2}, Schedule)


def test_values_out_of_range_are_refused() -> None:
    for factor in (0.0, -0.1, 1.5):
        with pytest.raises(InputError, match="factor = "):
            StepDecay(at=("1ep",), decay=factor)
    for final in (-0.1, 1.1):
        with pytest.raises(InputError, match="final = "):
            Cosine(final=final)
    with pytest.raises(InputError, match="is not a valid moment"):
        StepDecay(at=("soon",))
