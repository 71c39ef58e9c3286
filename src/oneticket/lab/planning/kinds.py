"""Kinds of data: whether recipes, searches and arms suit text, tables or images, found out before anything runs."""

from __future__ import annotations

import msgspec

from oneticket.data import AnySet, ImageSet, TextSet
from oneticket.data.sets import kind_of
from oneticket.errors import InputError
from oneticket.lab.planning.resolve import ResolvedExperiment
from oneticket.lab.spec.experiment import Experiment, Grid
from oneticket.lab.spec.parsing import split_role
from oneticket.methods import PRETRAININGS
from oneticket.pruning import CRITERIA
from oneticket.search import check_criterion
from oneticket.training import Recipe
from oneticket.training.objectives import LOSSES, LossName


def check_kinds(experiment: Experiment, resolved: ResolvedExperiment) -> None:
    """Refuse what the data of a role cannot be used for: augmentation, another loss, criteria, pre-training.

    Raises InputError, placed at the key.
    """
    for number, grid in enumerate(experiment.transfer):
        for role in dict.fromkeys((*grid.sources, *grid.targets)):
            data, name = split_role(role)
            train = resolved.splits(data).train
            _check_recipe(experiment.recipe[name], train, role, f"recipe.{name}")
            if isinstance(train, TextSet):
                _check_criteria(experiment, grid, role, f"transfer[{number}].arms")
        for role in grid.sources:
            _check_pretrainings(experiment, grid, resolved.splits(split_role(role)[0]).train, role)


def loss_of(train: AnySet) -> LossName:
    """The loss of a kind of data."""
    return "next-token" if isinstance(train, TextSet) else "classification"


def written(recipe: Recipe, train: AnySet) -> Recipe:
    """``recipe`` without the loss and the metric that its data have anyway: both ways to write it are one cell."""
    usual = loss_of(train)
    loss = msgspec.UNSET if recipe.loss == usual else recipe.loss
    metric = msgspec.UNSET if recipe.metric == LOSSES[usual].metric else recipe.metric
    return msgspec.structs.replace(recipe, loss=loss, metric=metric)


class WrittenRecipes:
    """Recipes as cells describe them, one object for all cells of equal recipes on a data set: they share its text."""

    def __init__(self, resolved: ResolvedExperiment) -> None:
        self._resolved = resolved
        self._known: dict[tuple[Recipe, str], Recipe] = {}

    def of(self, recipe: Recipe, data: str) -> Recipe:
        """``recipe`` as it is written for the data set ``data``."""
        if not (recipe.loss or recipe.metric):  # the kind of the data need not be known
            return recipe
        if (recipe, data) not in self._known:
            self._known[recipe, data] = written(recipe, self._resolved.splits(data).train)
        return self._known[recipe, data]


def _check_recipe(recipe: Recipe, train: AnySet, role: str, where: str) -> None:
    if recipe.augment and not isinstance(train, ImageSet):
        found = f"flip and crop are for images, and {role} trains on {_told(train)}"
        raise InputError(found, where=f"{where}.augment", expected="a recipe without it")
    usual = loss_of(train)
    if recipe.loss and recipe.loss != usual:
        found = f"loss = '{recipe.loss}', and {role} trains on {_told(train)}"
        raise InputError(found, where=f"{where}.loss", expected=f"'{usual}', or no loss")
    if recipe.metric and recipe.metric != LOSSES[usual].metric:
        found = f"metric = '{recipe.metric}', and {role} trains on {_told(train)}"
        raise InputError(found, where=f"{where}.metric", expected=f"'{LOSSES[usual].metric}', or no metric")


def _check_criteria(experiment: Experiment, grid: Grid, role: str, where: str) -> None:
    """Refuse criteria that look at classes: tokens do not have any."""
    searched = {experiment.search_of(name).criterion: f"the search of {name}" for name in grid.arms}
    masks = {arm.mask: name for name, arm in experiment.arms().items() if name in grid.arms and arm.mask in CRITERIA}
    for criterion, name in {**searched, **masks}.items():
        try:
            check_criterion(criterion, "next-token")
        except InputError as error:
            raise InputError(f"{name} on {role}: {error.what}", where=where, expected=error.expected) from None


def _check_pretrainings(experiment: Experiment, grid: Grid, train: AnySet, role: str) -> None:
    if isinstance(train, ImageSet):
        return
    for name in grid.arms:
        word = experiment.arms()[name].weights
        if word not in PRETRAININGS:
            continue
        if isinstance(train, TextSet) or PRETRAININGS.entry(word).facts.takes == "images":
            able = [entry.name for entry in PRETRAININGS.entries() if entry.facts.takes == "numbers"]
            found = f"the pre-training '{word}' of the arm '{name}' is not for {_told(train)}, which {role} has"
            expected = "another arm" if isinstance(train, TextSet) else f"one of {', '.join(able)}"
            raise InputError(found, where=f"arm.{name}.weights", expected=expected)


def _told(train: AnySet) -> str:
    return {"images": "images", "text": "text", "table": "a table"}[kind_of(train)]
