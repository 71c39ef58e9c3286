"""Budget: how long each arm is trained on its target, so that arms can be compared at equal steps or equal FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import msgspec

from oneticket.errors import InputError
from oneticket.lab.planning.ladder import Rung
from oneticket.lab.planning.resolve import ResolvedExperiment
from oneticket.lab.planning.rows import Role
from oneticket.lab.spec.arms import Arm
from oneticket.lab.spec.experiment import Experiment, Grid
from oneticket.methods.cyclic import first_density
from oneticket.methods.dense_to_sparse import interval
from oneticket.methods.gmp import density_after
from oneticket.models import ModelSpec
from oneticket.search import Search
from oneticket.training import Recipe, Step
from oneticket.training.schedule import Constant, Cosine, StepDecay

Options = Mapping[str, Any]

_VIEWS = {"rotation": 4}
"""Pre-trainings that see each image several times in an epoch, and how often."""


def _until_the_cut(density: float, options: Options, steps: int) -> float:
    """All weights until the fraction ``cut`` of the steps is over."""
    return density + (1 - density) * _phase(options["cut"], steps) / steps


def _along_the_curve(density: float, options: Options, steps: int) -> float:
    """The curve of gmp, which goes down in stairs."""
    phase = _phase(options["stop"], steps)
    wide = interval(options["every"], phase)
    stairs = ((density_after(at / phase, density), min(wide, phase - at)) for at in range(0, phase, wide))
    return (sum(height * width for height, width in stairs) + density * (steps - phase)) / steps


def _before_the_last_cycle(density: float, options: Options, steps: int) -> float:
    """ρ₀ in all cycles but the last."""
    cycles: int = options["cycles"]
    return (first_density(density, options["factor"]) * (cycles - 1) + density) / cycles


def _phase(fraction: float, steps: int) -> int:
    return max(1, math.floor(fraction * steps + 0.5))


def _throughout(density: float, options: Options, steps: int) -> float:
    return density


def _all_weights(density: float, options: Options, steps: int) -> float:
    """The gradients of the scores of all weights are dense."""
    return 1.0


MEAN_DENSITY: dict[str, Callable[[float, Options, int], float]] = {
    "l1": _until_the_cut,
    "l0": _until_the_cut,
    "gmp": _along_the_curve,
    "set": _throughout,
    "set-cosine": _throughout,
    "rigl": _throughout,
    "sculpt": _before_the_last_cycle,
    "edge-popup": _all_weights,
    "supermask": _all_weights,
    "cts": _all_weights,
}
"""For each method that makes masks: its density at the end, its options, and its number of steps → its mean density."""


class Course(msgspec.Struct, frozen=True):
    """The training of one arm on its target.

    Parameters
    ----------
    recipe : the recipe, as long as the budget makes it.
    start : the moment of ``recipe`` at which the training begins; empty for its first step.
    own_steps : optimiser steps from there to the end, with those before k where the weights are W_k, or where the
        method begins at k.
    """

    recipe: Recipe
    start: str
    own_steps: int


class Trainings(msgspec.Struct, frozen=True):
    """What a network builds on, besides its own training on the target.

    Parameters
    ----------
    count : trainings, ``search_trainings`` of the table.
    searches : searches whose ticket of round ``rung`` it needs; 0 without a ticket.
    rung : the round of its own search.
    search : how its ticket is searched for.
    found_in : the network in which that is done.
    giver : the source or target whose search gives the weights.
    """

    count: int
    searches: int
    rung: Rung
    search: Search
    found_in: ModelSpec
    giver: Role


class Budgets:
    """The training of each arm under the budget of its grid.

    ``recipe``: the T steps of the recipe, whatever went before. ``equal-k``: arms whose weights are W_k begin at step k
    of the recipe, so that every network has T steps of its own. ``equal-search``: an arm that rests on c trainings
    where the ticket of its density rests on n is trained for T · (1 + n − c) steps, and for T where c ≥ n.
    ``equal-flops``: the same by mask-aware FLOPs, in whole epochs. Longer trainings are *stretched*: each moment of the
    recipe is multiplied by the same factor as its length. The length of an arm that runs the recipe several times is
    what its ``cycles`` say under every budget.

    Raises
    ------
    InputError : k is at or after the end of the recipe; k is not a whole number of epochs where epochs are added; the
        FLOPs of a method are not known before it runs.
    """

    def __init__(self, experiment: Experiment, resolved: ResolvedExperiment) -> None:
        self._experiment, self._resolved = experiment, resolved
        self._recipes: dict[tuple[str, float | None, int, bool], Recipe] = {}
        self._lengths: dict[tuple[object, ...], int] = {}

    def course(
        self, spec: ModelSpec, grid: Grid, arm: Arm, to: Role, before: Trainings, density: float, lr: float | None
    ) -> Course:
        """The training of ``arm`` on ``to`` with ``density`` of its weights, 1 where it stays dense."""
        search, per_epoch = before.search, self._resolved.per_epoch(to)
        usual = self._experiment.recipe[to.recipe_name].epochs
        epochs = usual
        if arm.takes_no_step:
            behind = self._steps_of_k(before) if arm.has_rewound_weights else 0
            return Course(self._recipe(to, lr, usual, per_epoch, later=False), "", behind)
        if arm.length == "k-more":
            epochs += self._whole_epochs(search, to, per_epoch, grid)
        elif arm.cycles > 1:
            pass  # it has its own way to be longer
        elif grid.budget == "equal-search":
            epochs *= max(1, 1 + self._deepest(grid, arm, to, density).number - before.count)
        elif grid.budget == "equal-flops":
            key = (str(spec), str(arm), to, density, before.count, before.searches)  # the same for every replicate
            if key not in self._lengths:
                self._lengths[key] = self._affordable(spec, grid, arm, to, before, density)
            epochs = self._lengths[key]
        recipe = self._recipe(to, lr, epochs, per_epoch, later=arm.length == "k-more")
        behind, start = 0, ""
        if arm.starts_at_rewind:
            start = str(search.rewind)
            if epochs != usual:
                start = str(Step.parse(start).scaled(Fraction(epochs, usual), per_epoch))
            behind = Step.parse(start).iterations(per_epoch)
        if arm.has_rewound_weights:
            behind = self._steps_of_k(before)
            if grid.budget == "equal-k" and behind:
                start = str(Step(0, behind))
        total, first = recipe.epochs * per_epoch, Step.parse(start or 0).iterations(per_epoch)
        if grid.budget == "equal-k" and arm.has_rewound_weights and first >= total:
            raise InputError(
                f"W_k of {before.giver} has {behind} steps behind it, and {to} only {total} in all",
                where=self._place(grid, "budget"),
                expected="an earlier rewind, a longer recipe, or budget = 'recipe'",
            )
        return Course(recipe, start, arm.cycles * total - first + behind)

    def _steps_of_k(self, before: Trainings) -> int:
        """The steps that W_k has behind it, those of its own training."""
        return Step.parse(before.search.rewind).iterations(self._resolved.per_epoch(before.giver))

    # -- how long ------------------------------------------------------------------------------------------------
    def _deepest(self, grid: Grid, arm: Arm, to: Role, density: float) -> Rung:
        """The round with which an arm is compared: of an arm that stays dense, the deepest of its target."""
        ladder = self._resolved.ladder(self._experiment.search)
        densities = [density]
        if arm.stays_dense:
            grids = [other for other in self._experiment.transfer if str(to) in other.targets]
            densities = [d for other in grids for d in self._resolved.densities(other)]
        rung = max((ladder.nearest(d) for d in densities), key=lambda rung: rung.number)
        return rung if rung.number else Rung(1, rung.density)  # W_k under all weights costs a dense training, too

    def _affordable(self, spec: ModelSpec, grid: Grid, arm: Arm, to: Role, before: Trainings, density: float) -> int:
        """Epochs on ``to`` that cost, with the trainings before, as many FLOPs as a search there and its ticket."""
        usual = self._experiment.recipe[to.recipe_name].epochs
        goal = self._deepest(grid, arm, to, density)
        allowed = self._work(spec, to, self._experiment.search, goal.number)
        allowed += usual * self._per_epoch(spec, to, goal.density)
        if before.searches:
            spent = before.searches * self._work(before.found_in, to, before.search, before.rung.number)
        else:
            spent = before.count * _VIEWS.get(arm.weights, 1) * usual * self._per_epoch(spec, to, 1.0)
        if arm.makes_masks and arm.method not in MEAN_DENSITY:
            raise InputError(
                f"the FLOPs of the method '{arm.method}' are not known before it runs",
                where=self._place(grid, "budget"),
                expected=f"budget = 'equal-search', or a method of {', '.join(MEAN_DENSITY)}",
            )
        mean = MEAN_DENSITY[arm.method] if arm.makes_masks else _throughout
        end, per_epoch = 1.0 if arm.stays_dense or arm.freezes else before.rung.density, self._resolved.per_epoch(to)

        def cost(epochs: int) -> float:
            return epochs * self._per_epoch(spec, to, mean(end, arm.options, epochs * per_epoch))

        # The mean density depends a little on the length, by the width of the stairs: near the first guess, and exact.
        guess = max(usual, round((allowed - spent) / cost(usual) * usual))
        guess = max(usual, round((allowed - spent) / cost(guess) * guess))
        near = range(max(usual, guess - 3), guess + 4)
        return min(near, key=lambda epochs: abs(allowed - spent - cost(epochs)))

    def _work(self, spec: ModelSpec, to: Role, search: Search, number: int) -> float:
        """Mask-aware FLOPs of a search on ``to`` up to the ticket of round ``number``, as :meth:`_per_epoch` counts."""
        epochs = self._experiment.recipe[to.recipe_name].epochs
        skipped = 0.0
        if search.method != "fine-tune":
            per_epoch = self._resolved.per_epoch(to)
            skipped = Step.parse(search.rewind).iterations(per_epoch) / per_epoch
        rungs = self._resolved.ladder(search).rungs[1 : max(number, 1)]
        rounds = sum(self._per_epoch(spec, to, rung.density) for rung in rungs)
        return epochs * self._per_epoch(spec, to, 1.0) + (epochs - skipped) * rounds

    def _per_epoch(self, spec: ModelSpec, to: Role, density: float) -> float:
        """Mask-aware FLOPs of an epoch with ``density`` in every layer, divided by 3 × the number of its samples."""
        dense, others = self._resolved.forward_flops(spec, to.data_name)
        return others + density * (dense - others)

    def _whole_epochs(self, search: Search, to: Role, per_epoch: int, grid: Grid) -> int:
        epochs, rest = divmod(Step.parse(search.rewind).iterations(per_epoch), per_epoch)
        if rest:
            raise InputError(
                f"length = 'k-more', and rewind = {search.rewind} is not a whole number of the epochs of {to}, "
                f"which have {per_epoch} steps",
                where=self._place(grid, "arms"),
                expected="rewind in epochs, such as 1ep",
            )
        return epochs

    # -- recipes -------------------------------------------------------------------------------------------------
    def _recipe(self, role: Role, lr: float | None, epochs: int, per_epoch: int, *, later: bool) -> Recipe:
        """The recipe of a role; one object per key, so that it is serialised once."""
        key = (role.recipe_name, lr, epochs, later)
        if key not in self._recipes:
            recipe = self._experiment.recipe[role.recipe_name]
            if epochs != recipe.epochs:
                recipe = prolonged(recipe, epochs) if later else recipe.scaled(epochs, steps_per_epoch=per_epoch)
            self._recipes[key] = recipe if lr is None else msgspec.structs.replace(recipe, lr=lr)
        return self._recipes[key]

    def _place(self, grid: Grid, key: str) -> str:
        return f"transfer[{self._experiment.transfer.index(grid)}].{key}"


def prolonged(recipe: Recipe, epochs: int) -> Recipe:
    """``recipe`` with ``epochs`` epochs and the same steps after each drop of its rate: drops count from the end.

    >>> prolonged(Recipe.sgd(epochs=8, schedule=StepDecay(at=("6ep", "7ep"))), 9).schedule.at
    ('7ep', '8ep')
    """

    def later(moment: str) -> str:
        step = Step.parse(moment)
        return str(Step(step.epochs + epochs - recipe.epochs, step.its))

    schedule = recipe.schedule
    if isinstance(schedule, StepDecay):
        schedule = msgspec.structs.replace(schedule, at=tuple(map(later, schedule.at)))
    elif not isinstance(schedule, Constant | Cosine):
        raise InputError(
            f"the schedule {type(schedule).__name__} has no rule for k more steps", expected="length = 'recipe'"
        )
    return msgspec.structs.replace(recipe, epochs=epochs, schedule=schedule)
