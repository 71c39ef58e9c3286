"""Search and transfer: iterative magnitude pruning with rewinding finds a ticket; a transfer trains it elsewhere."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, get_args

import msgspec
import torch
from torch import Tensor, nn

from oneticket.data import BatchSource, ImageSet, Normalisation, as_batches
from oneticket.errors import InputError, unknown
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.pruning import ScoreContext, prune
from oneticket.pruning.base import check_pair
from oneticket.pruning.context import Batches
from oneticket.randomness import Streams
from oneticket.ticket import Placement, Provenance, Seen, Ticket, versions
from oneticket.training import Recipe, Runtime, Snapshot, Start, Step, Training, evaluate, train
from oneticket.weights import RESCALINGS, RescalingContext, check_optimizer, rescale

Retraining = Literal["rewind", "fine-tune", "lr-rewind"]
Restored = Literal["fresh", "rewound"]
State = dict[str, Tensor]


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a ticket is searched for.

    Each round removes the fraction ``prune`` of the remaining weights, so round n has the density (1 − prune)ⁿ.
    ``rewind`` is the moment k the weights go back to. ``method`` says how a round trains: from the rewound weights
    W_k (``rewind``), from the trained ones at the last learning rate (``fine-tune``), or from the trained ones with the
    schedule of k (``lr-rewind``; Renda et al. 2020). ``optimizer_state`` and ``norm_statistics`` say whether
    rewinding also restores what the optimiser and the normalisation layers remembered at k. ``rescale`` changes the
    scale of the weights that each round begins with.
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

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "rewind", str(Step.parse(self.rewind)))
        if not 0 < self.prune < 1:
            raise InputError(f"prune = {self.prune}", expected="a fraction between 0 and 1")
        if self.rounds < 1:
            raise InputError(f"rounds = {self.rounds}", expected="at least 1")
        kinds = {"method": Retraining, "optimizer_state": Restored, "norm_statistics": Restored}
        for field, kind in kinds.items():
            if getattr(self, field) not in get_args(kind):
                raise unknown(field, str(getattr(self, field)), get_args(kind))

    @classmethod
    def for_density(
        cls, density: float, *, rounds: int | None = None, prune: float | None = None, **options: Any
    ) -> Search:
        """The search whose last round has ``density``.

        Parameters
        ----------
        density : fraction of the prunable weights to keep, between 0 and 1.
        rounds : so many, each of which removes the same fraction; 1 is one-shot pruning.
        prune : or as many rounds as are needed if each removes this fraction, 0.2 by default; the last removes less.
        options : the other fields.

        Raises
        ------
        InputError : a number outside its range, or both ``rounds`` and ``prune``.
        """
        if not 0 < density < 1:
            raise InputError(f"density = {density}", expected="a fraction between 0 and 1")
        if rounds is not None and prune is not None:
            raise InputError(f"rounds = {rounds} and prune = {prune}", expected="one of them: it gives the other")
        if prune is not None and not 0 < prune < 1:
            raise InputError(f"prune = {prune}", expected="a fraction between 0 and 1")
        if rounds is not None:
            return cls(rounds=rounds, prune=1 - density ** (1 / max(rounds, 1)), **options)
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
    criterion: str
    allocation: str
    rewind: str | int
    method: Retraining
    optimizer_state: Restored
    norm_statistics: Restored
    rescale: str
    prune_head: bool
    prunable: tuple[str, ...] | None


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
) -> Masks:
    """The masks of round ``number``: pruned from the trained weights that ``prunable`` holds, inside ``alive``."""
    context = ScoreContext(
        initial=initial,
        batches=batches,
        generator=lambda: Streams(seed).generator("mask", "criterion", number),
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
    """What a round begins with: the state of the network, masked and rescaled, and where its training starts.

    Parameters
    ----------
    masks : of the round. rewound, memory : the network at k, and what the optimiser remembered then.
    trained : the weights that the round before it ended with. fresh : W_0.
    optimizer : name of the one that trains. network : state → a network that holds it. batch : inputs to rescale by.
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


def find_ticket(
    model: nn.Module,
    train_set: Any,
    *,
    recipe: Recipe,
    density: float = 0.05,
    seed: int = 0,
    head: str | None = None,
    name: str = "",
    device: str = "cpu",
    on_round: Callable[[int, int, Training], None] | None = None,
    **search: Unpack[SearchOptions],
) -> Ticket:
    """Find a winning ticket of ``model`` on ``train_set`` by IMP with rewinding (Frankle et al. 2020).

    Parameters
    ----------
    model : any module that maps a batch to logits (N × classes); its present weights are W_0; it is not changed.
    train_set : an ImageSet, a pair of tensors, or any map-style dataset of (input, label).
    recipe : how each round trains.
    density : fraction of the prunable weights to keep; met exactly, ⌊ρN⌉ weights.
    seed : the replicate; data order, augmentation and dropout come from its streams.
    head : name of the classifier, where it can't be found. name : of the data, for the ticket's provenance.
    on_round : called after each training with its number, the number of all, and what it left.
    search : the fields of :class:`Search`. ``rewind`` is the moment k whose weights the ticket carries: ``"1ep"`` (the
        default), ``"500it"``, 0. ``rounds`` is by default as many as removing ``prune`` (0.2) of the rest each round
        needs; 1 is one-shot pruning.

    Returns
    -------
    Ticket : masks, the weights W_k, and where it was found. ``rounds`` trainings are done.

    Raises
    ------
    InputError : a density that leaves no weight, a head that can't be found, a search that can't be done.

    Warns when a layer has lost all its weights.
    """
    for word in search:
        if word not in SearchOptions.__annotations__:
            raise unknown("option", word, SearchOptions.__annotations__)
    plan = Search.for_density(density, **search)
    network = copy.deepcopy(model)
    view = Prunable(network, head=head, prune_head=plan.prune_head, only=plan.prunable)
    batches = as_batches(train_set, recipe.batch_size, augmentation=recipe.augment, device=device)
    _check_search(plan, density, view, recipe, batches)
    masks, rewound = _searched(network, batches, recipe, plan, density, view, seed, device, on_round)
    if masks.collapsed():
        warnings.warn(f"no weight is left in {', '.join(masks.collapsed())} (layer collapse)", stacklevel=2)
    provenance = Provenance(
        model=type(model).__name__,
        seen=(seen(train_set, name, recipe, batches.samples),),
        round=plan.rounds,
        rounds=plan.rounds,
        rewind=str(plan.rewind),
        seed=seed,
        criterion=plan.criterion,
        allocation=plan.allocation,
        density_asked=density,
        versions=versions(),
    )
    return make_ticket(masks, rewound.state, view.head, provenance)


def _check_search(search: Search, density: float, view: Prunable, recipe: Recipe, batches: BatchSource) -> None:
    """Refuse what can't be done now, and not after the first training."""
    check_pair(search.criterion, search.allocation)
    check_rescaling(search.rescale, recipe.optimizer, search.method)
    if math.floor(density * view.total + 0.5) < 1:
        raise InputError(f"density = {density} leaves no weight at all of {view.total}", expected="a larger density")
    if search.rounds > 1 and search.method != "fine-tune":
        per_epoch = batches.steps_per_epoch
        if Step.parse(search.rewind).iterations(per_epoch) >= recipe.epochs * per_epoch:
            raise InputError(
                f"rewind = {search.rewind} leaves nothing to train after it", expected=f"less than {recipe.epochs}ep"
            )


def _searched(
    network: nn.Module,
    batches: BatchSource,
    recipe: Recipe,
    search: Search,
    density: float,
    view: Prunable,
    seed: int,
    device: str,
    on_round: Callable[[int, int, Training], None] | None,
) -> tuple[Masks, Snapshot]:
    """The masks of the last round, and the network at k. ``view`` is that of ``network``, which is trained."""
    evidence = Replayed(batches, Streams(seed))
    initial, runtime = _state(network), Runtime(device=device)
    run = train(network, batches, recipe, seed=seed, snapshots=[search.rewind], runtime=runtime)
    rewound = run.snapshots[str(search.rewind)]
    masks: Masks | None = None
    for number, target in enumerate([*search.densities()[1:-1], density], start=1):
        if on_round is not None:
            on_round(number - 1, search.rounds, run)
        masks = next_masks(
            view, initial=lambda: initial, batches=lambda: evidence, search=search, density=target, alive=masks,
            seed=seed, number=number,
        )  # fmt: skip
        if number == search.rounds:
            break
        state, start = begin_round(
            search, masks, rewound=lambda: rewound.state, memory=lambda: rewound.optimizer,
            trained=partial(_state, network), fresh=initial, optimizer=recipe.optimizer,
            network=partial(_copy_holding, network), batch=lambda: next(iter(evidence))[0],
        )  # fmt: skip
        network.load_state_dict(state)
        run = train(network, batches, recipe, masks=masks, seed=seed, start=start, runtime=runtime)
    assert masks is not None  # a search has at least one round
    return masks, rewound


def make_ticket(masks: Masks, rewound: Mapping[str, Tensor], head: str, provenance: Provenance) -> Ticket:
    """A ticket from masks and the state W_k of the whole network."""
    weights = masked_state({name: rewound[name] for name in masks}, masks)
    rest = {name: tensor for name, tensor in rewound.items() if name not in masks}
    return Ticket(masks=masks, weights=weights, rest=rest, head=head, provenance=provenance)


def seen(data: Any, name: str, recipe: Recipe, samples: int) -> Seen:
    """What a ticket remembers of a data set that it was found on."""
    known = Seen(name=name, split="train", samples=samples, recipe=msgspec.to_builtins(recipe))
    if not isinstance(data, ImageSet):
        return known
    return msgspec.structs.replace(
        known, fingerprint=data.digest(), normalised_by="train", classes=len(data.classes), input_shape=data.shape
    )


class Transfer(msgspec.Struct, frozen=True):
    """What came of a ticket on a target: what was placed, how the training went, and the final test figures."""

    placement: Placement
    training: Training
    test_accuracy: float | None
    test_loss: float | None


def transfer(
    ticket: Ticket,
    model: nn.Module,
    train_set: Any,
    *,
    recipe: Recipe,
    validation: Any = None,
    test_set: Any = None,
    head: Literal["fresh", "keep", "copied"] = "fresh",
    model_head: str | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Transfer:
    """Put ``ticket`` into ``model`` and train it on the target; ``model`` is changed in place.

    ``test_set`` is touched once, after the last step. An ImageSet given for testing is normalised with the statistics
    of ``train_set``. ``model_head`` names the classifier of a model in which it can't be found.
    """
    known = getattr(train_set, "normalisation", None)  # a source of batches brings its own
    normalisation = Normalisation.of(train_set) if isinstance(train_set, ImageSet) else known
    if isinstance(test_set, ImageSet) and normalisation is None:
        raise InputError("images to test on without images to train on", where="test_set", expected="both of one kind")
    placement = ticket.put_into(model, head=head, seed=seed, model_head=model_head)
    run = train(
        model, train_set, recipe, masks=placement.masks, validation=validation, seed=seed,
        runtime=Runtime(device=device),
    )  # fmt: skip
    if test_set is None:
        return Transfer(placement, run, None, None)
    accuracy, loss = evaluate(model, test_set, normalisation=normalisation, device=device)
    return Transfer(placement, run, accuracy, loss)


class Replayed:
    """Training batches in an order of their own that begin anew, and equal, whenever they are gone through."""

    def __init__(self, batches: BatchSource, streams: Streams) -> None:
        self._batches, self._streams = batches, streams

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order, augmentation = (self._streams.generator("mask", "evidence", what) for what in ("order", "augmentation"))
        return self._batches.epoch(order, augmentation)


def check_rescaling(name: str, optimizer: str, method: Retraining) -> None:
    """InputError for a rescaling that a search cannot do after its rounds, or not with this optimiser or method."""
    facts = RESCALINGS.entry(name).facts
    if method != "rewind" and facts.again == "compounds":
        able = [e.name for e in RESCALINGS.entries() if e.facts.again != "compounds" and e.facts.needs != "ticket"]
        raise InputError(
            f"rescale = '{name}' with method = '{method}', whose rounds go on with the weights of the round before: "
            "they are rescaled already, and the factors of all rounds would multiply",
            expected=f"method = 'rewind', or rescale = {' or '.join(map(repr, able))}",
        )
    if facts.needs == "ticket":
        raise InputError(
            f"rescale = '{name}' looks at a ticket and a random one, which a search has not yet",
            expected="a rescaling of the weights by themselves, or 'matched' for an arm",
        )
    check_optimizer(name, optimizer)


def _copy_holding(network: nn.Module, state: State) -> nn.Module:
    scratch = copy.deepcopy(network)
    scratch.load_state_dict(state)
    return scratch


def _state(model: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
