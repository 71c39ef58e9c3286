"""Schedules: the learning rate at each step, literally."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneticket.errors import InputError
from oneticket.training import Constant, Cosine, Recipe, Schedule, Step, StepDecay
from oneticket.training.schedule import learning_rates

MOMENTS = st.builds(lambda epochs, its: str(Step(epochs, its)), st.integers(0, 9), st.integers(0, 15))
KINDS: dict[type, st.SearchStrategy[Schedule]] = {
    Constant: st.just(Constant()),
    StepDecay: st.builds(
        StepDecay, at=st.lists(MOMENTS, max_size=3).map(tuple), decay=st.sampled_from([0.1, 0.25, 0.9])
    ),
    Cosine: st.builds(Cosine, final=st.sampled_from([0.0, 1e-6, 0.1, 1.0])),
}
SCHEDULES = st.sampled_from(get_args(Schedule)).flatmap(lambda kind: KINDS[kind])
WHOLE = st.integers(1, 8)
PER_EPOCH = st.integers(1, 12)


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


# -- a part of a training ------------------------------------------------------------------------------------------
def at(schedule: Schedule, moment: Fraction, total: int, per_epoch: int) -> float:
    """The factor of a schedule at a moment between steps, by its formula."""
    if isinstance(schedule, StepDecay):
        return math.prod(schedule.decay for each in schedule.at if moment >= Step.parse(each).iterations(per_epoch))
    if isinstance(schedule, Cosine):
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * float(moment / total))) / 2
    assert isinstance(schedule, Constant)
    return 1.0


@settings(max_examples=80, deadline=None)
@given(SCHEDULES, WHOLE, WHOLE, PER_EPOCH, MOMENTS)
def test_at_a_fraction_of_a_part_the_rate_is_that_of_the_whole_at_this_fraction(
    schedule: Schedule, epochs: int, part: int, per_epoch: int, warmup: str
) -> None:
    """The warm-up of the part takes the same fraction of it, and ends with a whole step."""
    recipe = Recipe.sgd(epochs=epochs, lr=0.4, schedule=schedule, warmup=warmup)
    scaled = recipe.scaled(part, steps_per_epoch=per_epoch)
    rate, total = scaled.rates(per_epoch), epochs * per_epoch
    warm = math.ceil(Fraction(Step.parse(warmup).iterations(per_epoch) * part, epochs))
    expected = [
        0.4
        * (min(1.0, (step + 1) / warm) if warm else 1.0)
        * at(schedule, Fraction(step * epochs, part), total, per_epoch)
        for step in range(part * per_epoch)
    ]
    assert scaled.epochs == part
    assert [rate(step) for step in range(part * per_epoch)] == pytest.approx(expected, rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(SCHEDULES, WHOLE, PER_EPOCH, MOMENTS)
def test_a_part_as_long_as_the_whole_is_the_whole(schedule: Schedule, epochs: int, per_epoch: int, warmup: str) -> None:
    recipe = Recipe.sgd(epochs=epochs, schedule=schedule, warmup=warmup)
    assert recipe.scaled(epochs, steps_per_epoch=per_epoch) is recipe


def test_the_drops_of_a_part_literally() -> None:
    """8 epochs of 15 steps with drops at 6 and 7: in 4 epochs at 45 and 52.5 steps, in one at 11.25 and 13.125."""
    recipe = Recipe.adam(epochs=8, schedule=StepDecay(at=("6ep", "7ep")), warmup="1ep", clip_norm=1.0)
    for epochs, moments, warmup in ((4, ("45it", "53it"), "8it"), (1, ("12it", "14it"), "2it")):
        changed = {"epochs": epochs, "schedule": StepDecay(at=moments), "warmup": warmup}
        assert recipe.scaled(epochs, steps_per_epoch=15) == msgspec.structs.replace(recipe, **changed)


@pytest.mark.parametrize("epochs", [0, -1, 1.5])
def test_a_part_without_an_epoch_is_refused(epochs: int) -> None:
    with pytest.raises(InputError, match="epoch"):
        Recipe.sgd(epochs=8).scaled(epochs, steps_per_epoch=10)


# -- fine-tuning ----------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(SCHEDULES, WHOLE, PER_EPOCH, st.sampled_from(["0it", "3it", "1ep", "20ep"]))
def test_fine_tuning_has_the_last_rate_or_the_mean_of_the_last_tenth(
    schedule: Schedule, epochs: int, per_epoch: int, warmup: str
) -> None:
    total, warm = epochs * per_epoch, Step.parse(warmup).iterations(per_epoch)
    rates = [
        0.4 * min(1.0, (step + 1) / max(warm, 1)) * at(schedule, Fraction(step), total, per_epoch)
        for step in range(total)
    ]
    last = rates[-math.ceil(total / 10) :] if isinstance(schedule, Cosine) else rates[-1:]
    recipe = Recipe.sgd(epochs=epochs, lr=0.4, schedule=schedule, warmup=warmup)
    assert recipe.fine_tuning_rate(per_epoch) == pytest.approx(sum(last) / len(last), rel=1e-9)
    if schedule.holds:
        assert recipe.fine_tuning_rate(per_epoch) == recipe.rates(per_epoch)(total - 1), "to the bit"


@pytest.mark.parametrize("kind", get_args(Schedule), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("warmup", ["0it", "5ep"])
def test_no_kind_of_schedule_fine_tunes_at_next_to_nothing_however_long_it_is(kind: type, warmup: str) -> None:
    """The rate that a cosine ends on goes to zero with the square of the number of steps; what is used must not."""
    options = {StepDecay: {"at": ("80ep", "120ep")}}
    recipe = Recipe.sgd(epochs=160, lr=0.1, schedule=kind(**options.get(kind, {})), warmup=warmup)
    for per_epoch in (1, 100):
        assert 5e-3 < recipe.fine_tuning_rate(per_epoch) / 0.1 <= 1


def test_fine_tuning_where_the_rate_has_dropped_to_nothing_is_refused() -> None:
    def recipe(*drops: str) -> Recipe:
        return Recipe.sgd(epochs=8, lr=0.4, schedule=StepDecay(at=drops, decay=0.01))

    assert recipe("2ep", "4ep").fine_tuning_rate(10) == pytest.approx(4e-5)
    with pytest.raises(InputError, match=r"4e-07, .* 1e-06 of lr = 0.4; expected a schedule that ends at 1e-05 of lr"):
        recipe("2ep", "4ep", "6ep").fine_tuning_rate(10)
