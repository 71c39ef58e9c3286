"""`find_ticket` and `transfer`: a winning ticket is found on one data set, and trained on another."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import msgspec
import torch
from torch import Tensor, nn

from oneticket.census import refuse_computed_weights, take_census
from oneticket.conversion import Seed, checked
from oneticket.data import AnySet, BatchSource, ImageSet, Normalisation, TextSet
from oneticket.errors import InputError, unknown
from oneticket.fitting import Fit, find_by
from oneticket.masks import Masks
from oneticket.methods.interpolation import interpolating
from oneticket.prunable import Prunable, find_head, has_layer
from oneticket.randomness import Streams
from oneticket.search import (
    Replayed,
    Search,
    SearchOptions,
    begin_round,
    check_criterion,
    check_search,
    masked_state,
    next_masks,
)
from oneticket.ticket import Placement, Provenance, Seen, Ticket, versions
from oneticket.training import Callback, Recipe, Runtime, Snapshot, Training, evaluate, train
from oneticket.training.examination import check_state, examine
from oneticket.training.objectives import Judge, Loss, LossName, MetricName, Objective
from oneticket.weights import State
from oneticket.words import Head


@checked
def find_ticket(
    model: nn.Module,
    train_set: Any = None,
    *,
    recipe: Recipe | None = None,
    fit: Fit | None = None,
    density: float = 0.05,
    seed: Seed = 0,
    head: str | None = None,
    name: str = "",
    device: str | torch.device = "cpu",
    runtime: Runtime | None = None,
    callbacks: Sequence[Callback] = (),
    on_round: Callable[[int, int, Any], None] | None = None,
    validation: Any = None,
    loss: LossName | Loss | None = None,
    metric: MetricName | Judge | None = None,
    **search: Unpack[SearchOptions],
) -> Ticket:
    """Find a winning ticket of ``model`` on ``train_set`` by IMP with rewinding (Frankle et al. 2020).

    Parameters
    ----------
    model : any module that maps a batch to logits (N × classes), or to what ``loss`` takes; its present
        weights are W_0. It is not changed.
    train_set : any data that :func:`oneticket.data.as_batches` takes.
    recipe : how each round trains.
    fit : instead of ``train_set`` and ``recipe``, a loop of one's own: ``fit(model, run)`` trains ``model`` in place
        and keeps ``run.ticket``; ``rewind`` is then 0 or a number of optimiser steps, which are counted. What it
        returns goes to ``on_round``.
    density : fraction of the prunable weights to keep; met exactly, ⌊ρN⌉ weights.
    seed : the replicate; data order, augmentation and dropout come from its streams.
    head : name of the classifier; by default the layer whose output is the network's output, found by watching one
        forward pass of a copy of the network in evaluation mode.
    name : name of the data, for the ticket's provenance.
    device : where to train, such as ``"cpu"`` or ``"cuda"``.
    runtime : how each training is computed, instead of ``device``; without a checkpoint.
    callbacks : as for :func:`oneticket.train`, of each of the trainings.
    on_round : called after each training with its number, the number of all trainings, and its result, whose
        ``history`` has the accuracy on ``validation`` after each epoch.
    validation : data that is only looked at; it decides nothing.
    loss, metric : as for :func:`oneticket.train`; by default cross-entropy and accuracy.
    search : the fields of :class:`Search`. ``rewind`` is the moment k whose weights the ticket carries: ``"1ep"`` (the
        default), ``"500it"``, 0. ``rounds`` is by default the number needed if each round removes the fraction
        ``prune`` (0.2) of the remaining weights; 1 is one-shot pruning.

    Returns
    -------
    Ticket : masks, the weights W_k, and where it was found, after ``rounds`` trainings.

    Raises
    ------
    InputError : a density that leaves no weight, a head that can't be found, an impossible search.

    Warns
    -----
    UserWarning : a layer has lost all its weights; weights are prunable that the network never uses or that are frozen;
        weights of other layers stay dense.

    Examples
    --------
    >>> import torch
    >>> import oneticket as ot
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
    >>> data = torch.randn(40, 4), torch.arange(40) % 2
    >>> ot.find_ticket(model, data, recipe=ot.Recipe.sgd(epochs=3, batch_size=10), density=0.25).masks.kept
    20
    """
    for word in search:
        if word not in SearchOptions.__annotations__:
            raise unknown("option", word, SearchOptions.__annotations__)
    plan, computed = Search.for_density(density, **search), _runtime(runtime, device)
    if fit is not None:
        _refuse_decided(
            train_set, recipe, runtime, validation, loss, metric, callbacks, None if str(device) == "cpu" else device
        )
        return find_by(fit, model, plan, density, seed=seed, head=head, name=name, on_round=on_round)
    if train_set is None or recipe is None:
        raise InputError("no train_set or no recipe", expected="both, or fit= for a loop of your own")
    if computed.checkpoint is not None:
        raise InputError("runtime has a checkpoint", expected="none: a search is many trainings")
    objective = Objective.of(train_set, recipe, loss, metric)
    check_criterion(plan.criterion, objective.name)
    _refuse_shared(model)
    refuse_computed_weights(model)  # they can't be copied
    check_state(model)
    examined = examine(
        model, train_set, recipe, device=computed.device, objective=objective, evaluated={"validation": validation}
    )
    batches = examined.train_set
    network = copy.deepcopy(model)
    example, _ = next(batches.ordered(), (None, None))
    census = take_census(network, example, head=head, prune_head=plan.prune_head, only=plan.prunable, spare=True)
    view = census.view
    check_search(plan, density, view, recipe, batches)
    if told := census.told(density):
        warnings.warn(told, stacklevel=3)
    train_on = partial(
        train, network, batches, recipe, callbacks=callbacks, seed=seed, runtime=computed,
        validation=examined.evaluated.get("validation"), **objective.given(),
    )  # fmt: skip
    masks, rewound = _searched(network, batches, recipe, plan, density, view, seed, train_on, on_round, objective)
    if masks.collapsed():
        warnings.warn(f"no weight is left in {', '.join(masks.collapsed())} (layer collapse)", stacklevel=3)
    known = seen(train_set, name, recipe, batches.samples)
    provenance = _provenance(type(model).__name__, known, plan, density, seed)
    return make_ticket(masks, rewound.state, view.head, provenance)


def _provenance(model: str, data: Seen, search: Search, density: float, seed: int) -> Provenance:
    return Provenance(
        model=model, seen=(data,), round=search.rounds, rounds=search.rounds, rewind=str(search.rewind), seed=seed,
        criterion=search.criterion, allocation=search.allocation, density_asked=density, versions=versions(),
    )  # fmt: skip


def _refuse_decided(*given: Any) -> None:
    """Refuse what a loop of the user's own decides."""
    if any(value is not None and value != () for value in given):
        expected = "no data, recipe, device, runtime, callbacks, loss, metric"
        raise InputError("fit is given with what it decides", expected=expected)


def _refuse_shared(model: nn.Module) -> None:
    """Refuse a model that several processes train together: each would go through all of the data by itself."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and torch.distributed.get_world_size() > 1:
        raise InputError(
            "the model is trained by several processes (DistributedDataParallel), of which each would search alone",
            expected="model.module in one process, or fit= with a loop that gives each process its share of the data",
        )


def _searched(
    network: nn.Module,
    batches: BatchSource,
    recipe: Recipe,
    search: Search,
    density: float,
    view: Prunable,
    seed: int,
    train_on: Callable[..., Training],
    on_round: Callable[[int, int, Training], None] | None,
    objective: Objective,
) -> tuple[Masks, Snapshot]:
    """The masks of the last round, and the network at k; ``train_on`` trains ``network``, and ``view`` is its view."""
    evidence = Replayed(batches, Streams(seed))
    initial = _state(network)
    run = train_on(snapshots=[search.rewind])
    rewound = run.snapshots[str(search.rewind)]
    masks: Masks | None = None
    for number, target in enumerate([*search.densities()[1:-1], density], start=1):
        if on_round is not None:
            on_round(number - 1, search.rounds, run)
        masks = next_masks(
            view, initial=lambda: initial, batches=lambda: evidence, search=search, density=target, alive=masks,
            seed=seed, number=number, loss=None if objective.name == "classification" else objective.loss,
        )  # fmt: skip
        if number == search.rounds:
            break
        state, start = begin_round(
            search, masks, rewound=lambda: rewound.state, memory=lambda: rewound.optimizer,
            trained=partial(_state, network), fresh=initial, optimizer=recipe.optimizer,
            network=partial(_copy_holding, network), batch=lambda: next(iter(evidence))[0],
        )  # fmt: skip
        if search.norms == "interpolated":
            start = interpolating(start, network, state, initial)
        network.load_state_dict(state)
        run = train_on(masks=masks, start=start)
    assert masks is not None  # a search has at least one round
    return masks, rewound


def make_ticket(masks: Masks, rewound: Mapping[str, Tensor], head: str, provenance: Provenance) -> Ticket:
    """A ticket from masks and the state W_k of the whole network."""
    weights = masked_state({name: rewound[name] for name in masks}, masks)
    rest = {name: tensor for name, tensor in rewound.items() if name not in masks}
    return Ticket(masks=masks, weights=weights, rest=rest, head=head, provenance=provenance)


def seen(data: Any, name: str, recipe: Recipe, samples: int) -> Seen:
    """The facts that a ticket records about the data set on which it was found."""
    known = Seen(name=name, split="train", samples=samples, recipe=msgspec.to_builtins(recipe))
    if not isinstance(data, AnySet):
        return known
    by = "" if isinstance(data, TextSet) else "train"
    return msgspec.structs.replace(
        known, fingerprint=data.digest(), normalised_by=by, classes=len(data.classes), input_shape=data.shape
    )


class Transfer(msgspec.Struct, frozen=True):
    """The result of a ticket on a target: the placed weights, the training, and the final test figures."""

    placement: Placement
    training: Training
    test_accuracy: float | None
    test_loss: float | None


@checked
def transfer(
    ticket: Ticket,
    model: nn.Module,
    train_set: Any,
    *,
    recipe: Recipe,
    validation: Any = None,
    test_set: Any = None,
    head: Head = "fresh",
    model_head: str | None = None,
    seed: Seed = 0,
    device: str | torch.device = "cpu",
    runtime: Runtime | None = None,
    callbacks: Sequence[Callback] = (),
    loss: LossName | Loss | None = None,
    metric: MetricName | Judge | None = None,
) -> Transfer:
    """Put ``ticket`` into ``model`` and train it on the target; ``model`` is changed in place.

    Parameters
    ----------
    ticket : the ticket, found on the source.
    model : the network to train; its body has the shapes of the ticket's.
    train_set, validation, test_set : as for :func:`oneticket.train`. ``test_set`` is evaluated once, at the
        end; an ImageSet given for testing is normalised with the statistics of ``train_set``.
    recipe : how the target is trained, from its step 0.
    head : ``"fresh"`` draws the classifier anew, ``"keep"`` leaves that of ``model``, ``"copied"`` takes the ticket's.
    model_head : name of the classifier of ``model``; by default the ticket's head, if the model has that layer, else
        the layer whose output is the model's output.
    seed : the replicate.
    device : where to train, such as ``"cpu"`` or ``"cuda"``.
    runtime : how the training is computed, instead of ``device``.
    callbacks, loss, metric : as for :func:`oneticket.train`.

    Returns
    -------
    Transfer : the placed weights, the training, and test accuracy (a fraction, or the ``metric``) and loss, both None
        without a test set.

    Raises
    ------
    InputError : a ticket that does not fit the model, an ImageSet to test on without one to train on.

    Examples
    --------
    >>> import torch
    >>> import oneticket as ot
    >>> def network():
    ...     return torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
    >>> source, target = ((torch.randn(40, 4), torch.arange(40) % 2) for _ in range(2))
    >>> recipe = ot.Recipe.sgd(epochs=3, batch_size=10)
    >>> ticket = ot.find_ticket(network(), source, recipe=recipe, density=0.25)
    >>> ot.transfer(ticket, network(), target, recipe=recipe).training.steps
    12
    """
    known = getattr(train_set, "normalisation", None)  # a source of batches has its own
    normalisation = Normalisation.of(train_set) if isinstance(train_set, ImageSet) else known
    if isinstance(test_set, ImageSet) and normalisation is None:
        raise InputError("test_set is an ImageSet, but train_set is not", expected="both of one kind")
    computed = _runtime(runtime, device)
    objective = Objective.of(train_set, recipe, loss, metric)
    evaluated = {"validation": validation, "test_set": test_set}
    examined = examine(model, train_set, recipe, device=computed.device, objective=objective, evaluated=evaluated)
    if model_head is None and not has_layer(model, ticket.head):
        model_head = _watched_head(model, examined.train_set)
    placement = ticket.put_into(model, head=head, seed=seed, model_head=model_head)
    run = train(
        model, train_set, recipe, masks=placement.masks, validation=validation, seed=seed,
        runtime=computed, callbacks=callbacks, **objective.given(),
    )  # fmt: skip
    if test_set is None:
        return Transfer(placement, run, None, None)
    figures = evaluate(model, test_set, normalisation=normalisation, device=computed.device, **objective.given())
    return Transfer(placement, run, *figures)


def _watched_head(model: nn.Module, batches: BatchSource) -> str | None:
    example = next(batches.ordered(), None)
    try:
        return None if example is None else find_head(model, inputs=example[0])
    except InputError as error:
        raise InputError(error.what, where="transfer", expected='its name, as model_head="…"') from error


def _runtime(runtime: Runtime | None, device: str | torch.device) -> Runtime:
    """The runtime of the arguments ``runtime`` and ``device``, of which one says where to train."""
    if runtime is None:
        return Runtime(device=str(device))
    if str(device) not in ("cpu", runtime.device):
        raise InputError(f"device = '{device}' and runtime.device = '{runtime.device}'", expected="only runtime")
    return runtime


def _copy_holding(network: nn.Module, state: State) -> nn.Module:
    scratch = copy.deepcopy(network)
    scratch.load_state_dict(state)
    return scratch


def _state(model: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
