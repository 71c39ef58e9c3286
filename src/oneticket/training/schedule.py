"""Learning-rate schedules: the factor on the base rate at each optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import ClassVar

import msgspec

from oneticket.conversion import conform
from oneticket.errors import InputError
from oneticket.training.step import Step


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="constant"):
    """The same rate throughout."""

    holds: ClassVar[bool] = True
    """Whether the rate stays as it is between the moments of the schedule, so that its last one is one to train at."""

    def factor(self, iteration: int, total: int, steps_per_epoch: int) -> float:
        """1."""
        return 1.0

    def scaled(self, stretch: Fraction, steps_per_epoch: int) -> Constant:
        """The same schedule for a training ``stretch`` times as long: itself."""
        return self


class StepDecay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="step"):
    """The rate multiplied by ``factor`` at each moment of ``at``."""

    holds: ClassVar[bool] = True
    at: tuple[str, ...]
    decay: float = msgspec.field(default=0.1, name="factor")

    def __post_init__(self) -> None:
        if isinstance(self.at, list | tuple):
            msgspec.structs.force_setattr(self, "at", tuple(str(Step.parse(moment, "at")) for moment in self.at))
        conform(self)
        if not 0 < self.decay <= 1:
            raise InputError(f"factor = {self.decay}", expected="a number above 0, at most 1")

    def factor(self, iteration: int, total: int, steps_per_epoch: int) -> float:
        """``decay`` to the power of the number of moments passed."""
        passed = sum(iteration >= Step.parse(moment).iterations(steps_per_epoch) for moment in self.at)
        return float(self.decay**passed)

    def scaled(self, stretch: Fraction, steps_per_epoch: int) -> StepDecay:
        """The same schedule for a training ``stretch`` times as long: its moments lie at the same fractions."""
        moments = (Step.parse(moment).scaled(stretch, steps_per_epoch) for moment in self.at)
        return msgspec.structs.replace(self, at=tuple(map(str, moments)))


class Cosine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cosine"):
    """From 1 down to ``final`` along half a cosine over the whole training."""

    holds: ClassVar[bool] = False
    final: float = 0.0

    def __post_init__(self) -> None:
        conform(self)
        if not 0 <= self.final <= 1:
            raise InputError(f"final = {self.final}", expected="a number from 0 to 1")

    def factor(self, iteration: int, total: int, steps_per_epoch: int) -> float:
        """``final + (1 − final)·(1 + cos(πt/T))/2``."""
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * iteration / max(total, 1)))

    def scaled(self, stretch: Fraction, steps_per_epoch: int) -> Cosine:
        """The same schedule for a training ``stretch`` times as long: itself, since it counts in fractions."""
        return self


Schedule = Constant | StepDecay | Cosine


def learning_rates(
    schedule: Schedule, lr: float, warmup: Step, total: int, steps_per_epoch: int
) -> Callable[[int], float]:
    """The learning rate at each 0-based optimiser step, after a linear warm-up from ``lr / n`` to ``lr``."""
    warm = warmup.iterations(steps_per_epoch)

    def rate(iteration: int) -> float:
        ramp = (iteration + 1) / warm if iteration < warm else 1.0
        return lr * ramp * schedule.factor(iteration, total, steps_per_epoch)

    return rate


def fine_tuning_rate(schedule: Schedule, rate: Callable[[int], float], total: int) -> float:
    """The one learning rate of fine-tuning after a training of ``total`` steps with this schedule.

    It is the last rate, by the definition of Renda et al. 2020, who decay by steps. A schedule that falls with every
    step has no rate that it ends on: the last one may be next to nothing. There it is the mean over the last tenth of
    the steps, rounded up; with a cosine from 1 to 0, about 0.008 of the base rate.

    Parameters
    ----------
    schedule : the schedule.
    rate : 0-based step → learning rate under this schedule, warm-up included.
    total : number of steps of the training, at least 1.
    """
    last = 1 if schedule.holds else max(1, math.ceil(total / 10))
    return math.fsum(rate(step) for step in range(total - last, total)) / last
