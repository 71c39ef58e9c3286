"""Search: the rounds of iterative magnitude pruning with rewinding, each with its initial state and its masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypedDict

import msgspec
import torch
from torch import Tensor, nn

from oneticket.conversion import check_keywords, conform, fit
from oneticket.data import BatchSource
from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.pruning import CRITERIA, ScoreContext, prune
from oneticket.pruning.base import check_pair
from oneticket.pruning.context import Batches, BatchLoss
from oneticket.randomness import Streams
from oneticket.training import Recipe, Start, Step
from oneticket.weights import RESCALINGS, RescalingContext, State, check_optimizer, rescale
from oneticket.words import AllocationName, CriterionName, Own, RescalingName

Retraining = Literal["rewind", "fine-tune", "lr-rewind"]
Restored = Literal["fresh", "rewound"]
Mixed = Literal["interpolated"]

_FRACTION = "a fraction above 0 and below 1, such as 0.2"


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a ticket is searched for.

    Each round removes the fraction ``prune`` of the remaining weights, so round n has the density (1 − prune)ⁿ.
    ``rewind`` is the moment k to which the weights return. ``method`` says how a round trains: from the rewound weights
    W_k (``rewind``), from the trained weights at the recipe's :meth:`~Recipe.fine_tuning_rate` (``fine-tune``), or from
    the trained weights with the schedule of k (``lr-rewind``; Renda et al. 2020). ``optimizer_state`` and
    ``norm_statistics`` say whether rewinding also restores the memory of the optimiser and of the normalisation layers
    at k. ``rescale`` changes the scale of the initial weights of each round. ``norms`` = ``interpolated`` trains the
    rounds after the dense training with normalisation parameters between their own and fresh ones (Oh et al. 2025).
    """

    rounds: int = 14
    prune: float = 0.2
    criterion: str = "magnitude"
    allocation: str = "global"
    rewind: str | int = "1ep"
    method: Retraining = "rewind"
    optimizer_state: Restored = "fresh"
    norm_statistics: Restored = "rewound"
    rescale: str = "none"
    prune_head: bool = False
    prunable: tuple[str, ...] | None = None
    norms: Mixed | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "rewind", str(Step.parse(self.rewind, "rewind")))
        conform(self)
        if not 0 < self.prune < 1:
            raise InputError(f"prune = {self.prune}", expected=_FRACTION)
        if self.rounds < 1:
            raise InputError(f"rounds = {self.rounds}", expected="at least 1")

    @classmethod
    def for_density(
        cls, density: float, *, rounds: int | None = None, prune: float | None = None, **options: Any
    ) -> Search:
        """The search whose last round has ``density``.

        Parameters
        ----------
        density : fraction of the prunable weights to keep, between 0 and 1.
        rounds : the number of rounds, each of which removes the same fraction; 1 is one-shot pruning.
        prune : instead of ``rounds``, the fraction that each round removes, 0.2 by default; the last removes less.
        options : the other fields.

        Raises
        ------
        InputError : a number outside its range, or both ``rounds`` and ``prune``.
        """
        check_keywords(options, cls)
        density, rounds = fit("density", density, float), fit("rounds", rounds, int | None)
        prune = fit("prune", prune, float | None)
        if not 0 < density < 1:
            raise InputError(f"density = {density}", expected=_FRACTION)
        if rounds is not None and prune is not None:
            raise InputError(f"rounds = {rounds} and prune = {prune}", expected="only one: it determines the other")
        if prune is not None and not 0 < prune < 1:
            raise InputError(f"prune = {prune}", expected=_FRACTION)
        if rounds is not None and rounds < 1:
            raise InputError(f"rounds = {rounds}", expected="at least 1")
        if rounds is not None:
            return cls(rounds=rounds, prune=1 - density ** (1 / rounds), **options)
        prune = 0.2 if prune is None else prune
        needed = max(1, math.ceil(round(math.log(density) / math.log1p(-prune), 9)))
        return cls(rounds=needed, prune=prune, **options)

    def densities(self) -> list[float]:
        """The density of every round, from 1.0 at round 0."""
        return [(1 - self.prune) ** n for n in range(self.rounds + 1)]


class SearchOptions(TypedDict, total=False):
    """The fields of `Search`, as keywords of :func:`find_ticket`; ``rounds`` and ``prune`` None mean the default."""

    rounds: int | None
    prune: float | None
    criterion: CriterionName | Own
    allocation: AllocationName | Own
    rewind: str | int
    method: Retraining
    optimizer_state: Restored
    norm_statistics: Restored
    rescale: RescalingName | Own
    prune_head: bool
    prunable: tuple[str, ...] | None
    norms: Mixed


def next_masks(
    prunable: Prunable,
    *,
    initial: Callable[[], State],
    batches: Callable[[], Batches],
    search: Search,
    density: float,
    alive: Masks | None,
    seed: int,
    number: int,
    loss: BatchLoss | None = None,
) -> Masks:
    """The masks of round ``number``: pruned from the trained weights that ``prunable`` holds, inside ``alive``."""
    context = ScoreContext(
        initial=initial,
        batches=batches,
        generator=lambda: Streams(seed).generator("mask", "criterion", number),
        loss=loss,
    )
    return prune(
        prunable, context, criterion=search.criterion, allocation=search.allocation, density=density, alive=alive
    )


def begin_round(
    search: Search,
    masks: Masks,
    *,
    rewound: Callable[[], Mapping[str, Tensor]],
    memory: Callable[[], Mapping[str, Tensor]],
    trained: Callable[[], State],
    fresh: State,
    optimizer: str,
    network: Callable[[State], nn.Module],
    batch: Callable[[], Tensor],
) -> tuple[State, Start]:
    """The initial state of a round's network, masked and rescaled, and the start of its training.

    Parameters
    ----------
    search : how the ticket is searched for.
    masks : the masks of the round.
    rewound, memory : the network at k, and the optimiser's memory at k.
    trained : the final weights of the previous round.
    fresh : W_0.
    optimizer : name of the optimiser that trains.
    network : state → a network with that state.
    batch : inputs for the rescaling.
    """
    state, start = trained(), Start(step=search.rewind)
    if search.method == "fine-tune":
        start = Start(lr_schedule="last")
    elif search.method == "rewind":
        state = dict(rewound())
        if search.norm_statistics == "fresh":
            state |= {name: fresh[name] for name in fresh if "running_" in name or "num_batches_tracked" in name}
    if search.optimizer_state == "rewound" and search.method != "fine-tune":
        start = msgspec.structs.replace(start, optimizer_state=memory())
    state = masked_state(state, masks)
    origin = "rewound" if search.method == "rewind" else "trained"
    context = RescalingContext(origin, network=lambda: network(state), batch=batch)
    weights = {name: state[name] for name in masks}
    made = rescale(search.rescale, weights, masks, context, optimizer=optimizer)
    return state | made.weights, msgspec.structs.replace(start, lr_factors=made.lr_factors)


def masked_state(state: Mapping[str, Tensor], masks: Masks) -> State:
    """``state`` with the masked weights at exactly zero."""
    return {n: torch.where(masks[n], t, torch.zeros_like(t)) if n in masks else t for n, t in state.items()}


class Replayed:
    """Training batches in a fixed order of their own; each iteration starts anew and gives the same batches."""

    def __init__(self, batches: BatchSource, streams: Streams) -> None:
        self._batches, self._streams = batches, streams

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order, augmentation = (self._streams.generator("mask", "evidence", what) for what in ("order", "augmentation"))
        return self._batches.epoch(order, augmentation)


def check_criterion(name: str, loss: str | None) -> None:
    """Raise InputError for a criterion that looks at classes where the loss is not their cross-entropy."""
    if loss != "classification" and CRITERIA.entry(name).facts.needs == "classes":
        able = [entry.name for entry in CRITERIA.entries() if entry.facts.needs != "classes"]
        raise InputError(
            f"criterion = '{name}' looks at samples of each class, which this loss does not have",
            expected=f"loss = 'classification', or one of {', '.join(able)}",
        )


def check_rescaling(name: str, optimizer: str, method: Retraining) -> None:
    """Raise InputError for a rescaling that is impossible in a search, or with this optimiser or method."""
    facts = RESCALINGS.entry(name).facts
    if method != "rewind" and facts.again == "compounds":
        able = [e.name for e in RESCALINGS.entries() if e.facts.again != "compounds" and e.facts.needs != "ticket"]
        raise InputError(
            f"rescale = '{name}' with method = '{method}', whose rounds go on with the weights of the previous round: "
            "they are already rescaled, and the factors of all rounds would multiply",
            expected=f"method = 'rewind', or rescale = {' or '.join(map(repr, able))}",
        )
    if facts.needs == "ticket":
        raise InputError(
            f"rescale = '{name}' needs a ticket and a random ticket, which a search does not have yet",
            expected="a rescaling of the weights by themselves, or 'matched' for an arm",
        )
    check_optimizer(name, optimizer)


def check_search(search: Search, density: float, view: Prunable, recipe: Recipe, batches: BatchSource) -> None:
    """Refuse an impossible search before the first training."""
    check_pair(search.criterion, search.allocation)
    check_rescaling(search.rescale, recipe.optimizer, search.method)
    if search.rounds > 1 and search.method == "fine-tune":
        recipe.fine_tuning_rate(batches.steps_per_epoch)  # refused before the first training, not after it
    if math.floor(density * view.total + 0.5) < 1:
        raise InputError(f"density = {density} leaves none of the {view.total} weights", expected="a larger density")
    if search.rounds > 1 and search.method != "fine-tune":
        per_epoch = batches.steps_per_epoch
        if Step.parse(search.rewind).iterations(per_epoch) >= recipe.epochs * per_epoch:
            raise InputError(
                f"rewind = {search.rewind} leaves no step to train after it",
                expected=f"a moment before {recipe.epochs}ep, such as rewind=0, or a recipe with more epochs",
            )
