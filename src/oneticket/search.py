"""Search and transfer: iterative magnitude pruning with rewinding finds a ticket; a transfer trains it elsewhere."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, get_args

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
from oneticket.training import Recipe, Step, Training, evaluate, train
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

    def densities(self) -> list[float]:
        """The density of every round, from 1.0 at round 0."""
        return [(1 - self.prune) ** n for n in range(self.rounds + 1)]


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


def round_start(search: Search, rewound: State, trained: State, fresh: State) -> tuple[State, dict[str, Any]]:
    """What a round begins with: the state of the network, and the options of :func:`oneticket.training.train`."""
    if search.method == "fine-tune":
        return trained, {"lr_schedule": "last"}
    if search.method == "lr-rewind":
        return trained, {"start": search.rewind}
    state = dict(rewound)
    if search.norm_statistics == "fresh":
        state |= {name: fresh[name] for name in fresh if "running_" in name or "num_batches_tracked" in name}
    return state, {"start": search.rewind}


def rescaled(
    search: Search, state: State, masks: Masks, optimizer: str, context: RescalingContext
) -> tuple[State, dict[str, Any]]:
    """The masked ``state`` rescaled as the search says, and the options of the loop that belong to it."""
    weights = {name: state[name] for name in masks}
    made = rescale(search.rescale, weights, masks, context, optimizer=optimizer)
    return state | made.weights, {"lr_factors": made.lr_factors} if made.lr_factors else {}


def masked_state(state: Mapping[str, Tensor], masks: Masks) -> State:
    """``state`` with the masked weights at exactly zero."""
    return {n: torch.where(masks[n], t, torch.zeros_like(t)) if n in masks else t for n, t in state.items()}


def find_ticket(
    model: nn.Module,
    train_set: Any,
    *,
    recipe: Recipe,
    density: float = 0.05,
    rewind: str | int = "1ep",
    seed: int = 0,
    rounds: int | None = None,
    prune: float = 0.2,
    criterion: str = "magnitude",
    allocation: str = "global",
    method: Retraining = "rewind",
    optimizer_state: Restored = "fresh",
    norm_statistics: Restored = "rewound",
    rescale: str = "none",
    head: str | None = None,
    prune_head: bool = False,
    prunable: tuple[str, ...] | None = None,
    name: str = "",
    device: str = "cpu",
    on_round: Callable[[int, int, Training], None] | None = None,
) -> Ticket:
    """Find a winning ticket of ``model`` on ``train_set`` by IMP with rewinding (Frankle et al. 2020).

    Parameters
    ----------
    model : any module that maps a batch to logits (N × classes); its present weights are W_0; it is not changed.
    train_set : an ImageSet, a pair of tensors, or any map-style dataset of (input, label).
    density : fraction of the prunable weights to keep; met exactly, ⌊ρN⌉ weights.
    rewind : the moment k whose weights the ticket carries: ``"1ep"``, ``"500it"``, 0.
    rounds : number of rounds; by default as many as removing ``prune`` of the rest each round needs. 1 is one-shot.
    seed : the replicate; data order, augmentation and dropout come from its streams.

    Trains ``rounds`` times. Raises InputError for a density that leaves no weight, a head that can't be found.
    Warns when a layer has lost all its weights.
    """
    if not 0 < density < 1:
        raise InputError(f"density = {density}", expected="a fraction between 0 and 1")
    if not 0 < prune < 1:
        raise InputError(f"prune = {prune}", expected="a fraction between 0 and 1")
    if rounds is None:
        rounds = max(1, math.ceil(round(math.log(density) / math.log1p(-prune), 9)))
        densities = [(1 - prune) ** n for n in range(1, rounds)] + [density]
    else:
        densities = [density ** (n / rounds) for n in range(1, rounds)] + [density]
    search = Search(
        rounds=rounds, prune=prune, criterion=criterion, allocation=allocation, rewind=rewind, method=method,
        optimizer_state=optimizer_state, norm_statistics=norm_statistics, rescale=rescale, prune_head=prune_head,
        prunable=prunable,
    )  # fmt: skip
    # What can't be done is refused now, not after the first training.
    check_pair(criterion, allocation)
    check_rescaling(rescale, recipe.optimizer, method)
    network = copy.deepcopy(model)
    view = Prunable(network, head=head, prune_head=prune_head, only=prunable)
    if math.floor(density * view.total + 0.5) < 1:
        raise InputError(f"density = {density} leaves no weight at all of {view.total}", expected="a larger density")
    batches = as_batches(train_set, recipe.batch_size, augmentation=recipe.augment, device=device)
    if rounds > 1 and method != "fine-tune":
        per_epoch = batches.steps_per_epoch
        if Step.parse(rewind).iterations(per_epoch) >= recipe.epochs * per_epoch:
            raise InputError(
                f"rewind = {search.rewind} leaves nothing to train after it", expected=f"less than {recipe.epochs}ep"
            )
    evidence = Replayed(batches, Streams(seed))
    initial = _state(network)
    run = train(network, batches, recipe, seed=seed, snapshots=[search.rewind], device=device)
    rewound = run.snapshots[str(search.rewind)]
    masks: Masks | None = None
    for number, target in enumerate(densities, start=1):
        if on_round is not None:
            on_round(number - 1, rounds, run)
        masks = next_masks(
            view, initial=lambda: initial, batches=lambda: evidence, search=search, density=target, alive=masks,
            seed=seed, number=number,
        )  # fmt: skip
        if number == rounds:
            break
        state, options = round_start(search, rewound.state, _state(network), initial)
        state = masked_state(state, masks)
        context = RescalingContext(
            "rewound" if method == "rewind" else "trained",
            network=partial(_holding, network, state),
            batch=lambda: next(iter(evidence))[0],
        )
        state, rates = rescaled(search, state, masks, recipe.optimizer, context)
        network.load_state_dict(state)
        options |= rates
        if search.optimizer_state == "rewound" and method != "fine-tune":
            options["optimizer_state"] = rewound.optimizer
        run = train(network, batches, recipe, masks=masks, seed=seed, device=device, **options)
    assert masks is not None
    if masks.collapsed():
        warnings.warn(f"no weight is left in {', '.join(masks.collapsed())} (layer collapse)", stacklevel=2)
    provenance = Provenance(
        model=type(model).__name__,
        seen=(seen(train_set, name, recipe, batches.samples),),
        round=rounds,
        rounds=rounds,
        rewind=str(search.rewind),
        seed=seed,
        criterion=criterion,
        allocation=allocation,
        density_asked=density,
        versions=versions(),
    )
    return make_ticket(masks, rewound.state, view.head, provenance)


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
    run = train(model, train_set, recipe, masks=placement.masks, validation=validation, seed=seed, device=device)
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


def _holding(network: nn.Module, state: State) -> nn.Module:
    scratch = copy.deepcopy(network)
    scratch.load_state_dict(state)
    return scratch


def _state(model: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
