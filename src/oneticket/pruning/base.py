"""The interface of pruning: criterion → scores, allocation → masks, control → other masks; and ``prune``."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Concatenate, Literal, TypeAlias

import msgspec
import torch
from torch import Tensor

from oneticket.conversion import checked
from oneticket.errors import InputError, OneticketError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.pruning.context import ControlContext, ScoreContext
from oneticket.registry import Registry

Scores: TypeAlias = dict[str, Tensor]
"""Parameter name → floating-point tensor of that parameter's shape; the smallest scores go first."""

Criterion: TypeAlias = Callable[[Prunable, ScoreContext], Scores]
Allocation: TypeAlias = Callable[Concatenate[Scores, float, Masks, ...], Masks]
Control: TypeAlias = Callable[[Masks, ControlContext], Masks]


class CriterionFacts(msgspec.Struct, frozen=True):
    """The registered facts of a criterion.

    Parameters
    ----------
    at : str
        ``init`` if the scores make sense without training, so that an untrained network can be pruned.
    scores : str
        ``signed`` if they may be negative.
    rounds : int
        How often :func:`prune` scores the weights on the way to the density.
    needs : str, optional
        ``classes`` if it looks at samples of each class, and so only at the cross-entropy of classes.
    """

    at: Literal["end", "init"] = "end"
    scores: Literal["nonnegative", "signed"] = "nonnegative"
    rounds: int = 1
    needs: Literal["classes"] | None = None


class AllocationFacts(msgspec.Struct, frozen=True):
    """The registered facts of an allocation.

    Parameters
    ----------
    needs : str, optional
        ``nonnegative`` if it is not defined for signed scores; ``head`` if it takes the name of the head's weight as
        the argument ``head`` (None if that weight is not prunable).
    least : str, optional
        For an allocation that refuses densities that are too low: what the lowest density depends on.
    """

    needs: Literal["nonnegative", "head"] | None = None
    least: str | None = None


class ControlFacts(msgspec.Struct, frozen=True):
    """The registered facts of a control.

    Parameters
    ----------
    needs : str
        ``density`` if it uses only the number of kept weights, not their positions.
    masks_from : str
        The ticket whose masks it gets: the arm's ``own``, or a ticket of another seed or depth.
    """

    needs: Literal["masks", "density"] = "masks"
    masks_from: Literal["own", "other-seed", "other-depth"] = "own"


CRITERIA: Registry[Criterion, CriterionFacts] = Registry("criterion", CriterionFacts)
"""Each scores every prunable weight; the number of weights to prune is decided elsewhere."""

ALLOCATIONS: Registry[Allocation, AllocationFacts] = Registry("allocation", AllocationFacts)
"""Each turns scores (in the model's order), a density and the weights still alive into masks.

Keeps exactly :func:`kept_count` weights, all of them alive, ties broken by index.
"""

CONTROLS: Registry[Control, ControlFacts] = Registry("control", ControlFacts)
"""Each turns a ticket's masks into those of a control arm, with equally many weights kept (methods §4)."""

criterion, allocation, control = CRITERIA.register, ALLOCATIONS.register, CONTROLS.register
"""Decorators: ``@criterion("name", source="…", at="init")``."""


def kept_count(density: float, total: int) -> int:
    """⌊ρN⌉, the number of weights kept of ``total`` at ``density``; a half is rounded up.

    >>> kept_count(0.5, 5), kept_count(0.8, 266_200)
    (3, 212960)
    """
    return math.floor(density * total + 0.5)


@checked
def prune(
    model: Prunable,
    context: ScoreContext,
    *,
    criterion: str,
    allocation: str,
    density: float,
    alive: Masks | None = None,
    rounds: int | None = None,
) -> Masks:
    """Masks that keep exactly ⌊ρN⌉ prunable weights: the best by ``criterion``, where ``allocation`` says.

    Parameters
    ----------
    model : Prunable
        The view of the network's N prunable weights; weights that are not alive must be zero. It is not changed.
    context : ScoreContext
        What the criterion may use besides the weights.
    criterion, allocation : str
        Registered names.
    density : float
        ρ in (0, 1], of all N weights, not of those alive.
    alive : Masks, optional
        The weights that may still be kept; all when None. The result is a subset.
    rounds : int, optional
        How often the weights are scored and pruned on the way from ``alive`` to ρ, each time by the same factor
        (exponential schedule; Tanaka et al. 2020, Algorithm 1), on a copy whose pruned weights are zero; None means as
        often as the criterion states, which is once for most.

    Returns
    -------
    Masks
        The masks of the kept weights, on the CPU.

    Raises
    ------
    InputError
        For an unknown name, a pair that :func:`check_pair` refuses, a density that is out of range, leaves no weight or
        needs more weights than are alive, fewer than one round, and scores that are not finite or do not have the
        weights' shapes.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    >>> prune(Prunable(net), ScoreContext(), criterion="magnitude", allocation="global", density=0.25).kept
    3
    """
    check_pair(criterion, allocation)
    scoring = CRITERIA.entry(criterion)
    alive = Masks.full(dict(model.weights())) if alive is None else _matching(model, alive)
    _check_density(density, alive)
    targets = _schedule(alive.density, density, scoring.facts.rounds if rounds is None else rounds)
    pruned = model if len(targets) == 1 else private_copy(model)
    for target in targets:
        if pruned is not model:
            _zero_outside(pruned, alive)
        scores = _checked_scores(pruned, scoring.function(pruned, context), f"criterion '{criterion}'")
        alive = allocate(allocation, scores, target, alive, model.head_weight)
    return alive


def check_pair(criterion: str, allocation: str) -> None:
    """Raise InputError unless both names are registered and the allocation is defined for the criterion's scores."""
    scores, needs = CRITERIA.entry(criterion).facts.scores, ALLOCATIONS.entry(allocation).facts.needs
    if scores == "signed" and needs == "nonnegative":
        unsigned = [e.name for e in CRITERIA.entries() if e.facts.scores != "signed"]
        raise InputError(
            f"allocation '{allocation}' is not defined for the signed scores of criterion '{criterion}'",
            expected=f"a criterion such as {', '.join(unsigned)}",
        )


def private_copy(model: Prunable) -> Prunable:
    """The same view of a deep copy of the network, so that scores can be computed without changing the model."""
    return Prunable(copy.deepcopy(model.model), head=model.head, only=model.names)


def _schedule(start: float, end: float, rounds: int) -> list[float]:
    if rounds < 1:
        raise InputError(f"rounds = {rounds}", expected="at least 1")
    return [start * (end / start) ** (i / rounds) for i in range(1, rounds)] + [end]


def allocate(allocation: str, scores: Scores, density: float, alive: Masks, head: str | None) -> Masks:
    """The masks of a registered allocation; ``head`` names the head's weight if it is among the scores.

    Raises InputError for an unknown name and for input that the allocation refuses; OneticketError if the allocation
    kept a wrong number of weights, or a weight that was not alive.
    """
    allocating = ALLOCATIONS.entry(allocation)
    told = {"head": head} if allocating.facts.needs == "head" else {}
    masks, count = allocating.function(scores, density, alive, **told), kept_count(density, alive.total)
    if not isinstance(masks, Masks):
        raise InputError(f"allocation '{allocation}' gave {_given(masks)}", expected="Masks")
    if masks.kept != count or not masks <= alive:
        raise OneticketError(
            f"allocation '{allocation}' is faulty: it kept {masks.kept} weights instead of {count}, "
            f"{(masks - alive).kept} of them no longer alive"
        )
    return masks


@torch.no_grad()
def _zero_outside(model: Prunable, alive: Masks) -> None:
    for name, weight in model.weights():
        weight.masked_fill_(~alive[name].to(weight.device), 0)


def _check_density(density: float, alive: Masks) -> None:
    if not 0 < density <= 1:
        raise InputError(f"density {density} is out of range", where="density", expected="0 < density ≤ 1")
    count = kept_count(density, alive.total)
    if count < 1:
        least = f"at least {0.5 / alive.total:.3g} for {alive.total} weights"
        raise InputError(f"density {density} leaves no weight", where="density", expected=least)
    if count > alive.kept:
        raise InputError(
            f"density {density} needs {count} weights, but only {alive.kept} are alive",
            where="density",
            expected=f"at most {alive.kept / alive.total:.6g}",
        )


def _matching(model: Prunable, alive: Masks) -> Masks:
    shapes = {name: tuple(weight.shape) for name, weight in model.weights()}
    given = {name: tuple(mask.shape) for name, mask in alive.items()}
    if shapes != given:
        name = next(n for n in [*shapes, *given] if shapes.get(n) != given.get(n))
        raise InputError(
            f"mask '{name}' has the shape {given[name]}" if name in given else f"there is no mask for '{name}'",
            where="alive",
            expected=f"the shape {shapes[name]}" if name in shapes else "masks of prunable weights only",
        )
    return Masks({name: alive[name].cpu() for name in shapes})


def _given(value: object) -> str:
    return "nothing: does it lack a `return`?" if value is None else f"a {type(value).__name__}"


def _checked_scores(model: Prunable, scores: Scores, where: str) -> Scores:
    weights = dict(model.weights())
    if not isinstance(scores, Mapping):
        raise InputError(f"it gave {_given(scores)}", where=where, expected="a dictionary: parameter name → scores")
    for name in [*weights, *scores]:
        if name not in scores or name not in weights:
            fault = "has no score" if name in weights else "has a score, but is not a prunable weight"
            raise InputError(f"'{name}' {fault}", where=where, expected="one score for each prunable weight")
        if not isinstance(scores[name], Tensor):
            raise InputError(f"'{name}' has {_given(scores[name])}", where=where, expected="a tensor of scores")
        if scores[name].shape != weights[name].shape:
            raise InputError(
                f"scores of '{name}' have the shape {tuple(scores[name].shape)}",
                where=where,
                expected=f"{tuple(weights[name].shape)}",
            )
        if not bool(torch.isfinite(scores[name]).all()):
            raise InputError(f"scores of '{name}' are not all finite", where=where, expected="finite numbers")
    return {name: scores[name].detach().cpu() for name in weights}
