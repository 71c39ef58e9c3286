"""`Start`: where a training begins; `Timetable`: the steps from there to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
from torch import Tensor

from oneticket.conversion import conform, fit
from oneticket.errors import InputError
from oneticket.training.callbacks import Callback
from oneticket.training.recipe import Recipe
from oneticket.training.step import Step

LrSchedule = Literal["recipe", "last"]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where a training begins, if not at step 0 of its recipe with a fresh optimiser.

    Parameters
    ----------
    step : the moment of the recipe, ``"1ep"``, ``"500it"`` or a number of optimiser steps: rewinding to step k
        continues with the schedule of step k.
    optimizer_state : the optimiser's memory, as ``Snapshot.optimizer`` holds it; fresh when None.
    lr_schedule : ``"recipe"``, or ``"last"`` for one rate throughout, that of :meth:`Recipe.fine_tuning_rate`: the
        recipe's last, or the mean of its last tenth where the schedule falls to its very end.
    cycles : how often the recipe is run, one time after the other: each time its whole schedule, warm-up included, from
        the weights that the time before has left, and a fresh optimiser. Epochs are counted on.
    lr_factors : parameter name → factor on its learning rate, not on the decay of AdamW; 1 for those not named.
    callbacks : the callbacks of the method, called before those of the user.
    """

    step: str | int | Step = 0
    optimizer_state: Mapping[str, Tensor] | None = None
    lr_schedule: LrSchedule = "recipe"
    cycles: int = 1
    lr_factors: Mapping[str, float] = {}
    callbacks: tuple[Callback, ...] = ()

    def __post_init__(self) -> None:
        Step.parse(self.step, "step")
        conform(self)
        if self.cycles < 1:
            raise InputError(f"cycles = {self.cycles}", expected="at least 1")
        for name, factor in self.lr_factors.items():
            if not 0 <= fit(f"lr_factors['{name}']", factor, float) < float("inf"):
                raise InputError(f"lr_factors['{name}'] = {factor}", expected="a number of at least 0")


class Timetable(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of one training, counted from 0 over the whole recipe, and on over its repetitions.

    Parameters
    ----------
    first, total : the number of steps at its beginning and at its end.
    per_epoch : steps in an epoch.
    lr : step → learning rate.
    moments : name of a snapshot → number of steps after which it is taken.
    cycles : how often the recipe is run.
    """

    first: int
    total: int
    per_epoch: int
    lr: Callable[[int], float]
    moments: Mapping[str, int] = {}
    cycles: int = 1

    @property
    def cycle(self) -> int:
        """The number of steps of the whole recipe, once."""
        return self.total // self.cycles

    @classmethod
    def of(cls, recipe: Recipe, per_epoch: int, start: Start, snapshots: Sequence[str | int | Step]) -> Timetable:
        """The timetable of ``recipe`` from ``start`` on.

        Raises
        ------
        InputError : no step in an epoch, a start or a snapshot outside the training, a rate of fine-tuning at which
            nothing would be learned.
        """
        if not per_epoch:
            raise InputError("there is nothing to train on: the training set is empty")
        cycle, first = recipe.epochs * per_epoch, Step.parse(start.step).iterations(per_epoch)
        total = cycle * start.cycles
        if first > total:
            raise InputError(f"the training would start at step {first}, but it has only {total}", where="start")
        moments = {str(Step.parse(moment)): Step.parse(moment).iterations(per_epoch) for moment in snapshots}
        for name, moment in moments.items():
            if not first <= moment <= total:
                raise InputError(f"the moment {name} is outside the training", expected=f"steps {first} to {total}")
        fine_tuning = start.lr_schedule == "last"
        rate = _always(recipe.fine_tuning_rate(per_epoch)) if fine_tuning else recipe.rates(per_epoch)
        lr = rate if start.cycles == 1 else lambda step: rate(step % cycle)
        return cls(first=first, total=total, per_epoch=per_epoch, lr=lr, moments=moments, cycles=start.cycles)


def _always(rate: float) -> Callable[[int], float]:
    return lambda _: rate
