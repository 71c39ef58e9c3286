"""A search whose rounds are trained by a loop of the user's: Trainer, Lightning, or one written by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from oneticket.census import take_census
from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.prunable import Prunable
from oneticket.pruning.base import check_pair
from oneticket.pruning.context import Batches
from oneticket.search import Search, masked_state, next_masks
from oneticket.ticket import Provenance, Ticket, versions
from oneticket.training import Step
from oneticket.weights import State


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training that a search asks for.

    Parameters
    ----------
    ticket : what the loop has to keep: ``with run.ticket.kept(optimizer, model=model):``, or a ``TicketCallback`` of
        :mod:`oneticket.integrations`. The first run is dense: its masks keep all weights.
    number, rounds : of this training, from 0; of all trainings.
    seed : the replicate, for the loop's own order of data.
    start : optimiser steps that the weights have behind them: 0 in the first run, then k.
    """

    ticket: Ticket
    number: int
    rounds: int
    seed: int
    start: int

    @property
    def masks(self) -> Masks:
        """The masks of this run."""
        return self.ticket.masks


Fit = Callable[[nn.Module, Run], Any]


def find_by(
    fit: Fit,
    model: nn.Module,
    search: Search,
    density: float,
    *,
    seed: int,
    head: str | None,
    name: str,
    on_round: Callable[[int, int, Any], None] | None,
) -> Ticket:
    """The ticket of a search whose rounds ``fit`` trains; see :func:`oneticket.find_ticket`."""
    view = take_census(copy.deepcopy(model), None, head=head, prune_head=search.prune_head, only=search.prunable).view
    k = _rewind_step(search)
    _check(search, density, view)
    initial = _state(model)
    # Once before the first training: a criterion that needs more than weights is refused now.
    next_masks(
        view,
        initial=lambda: initial,
        batches=_no_batches,
        search=search,
        density=density,
        alive=None,
        seed=seed,
        number=1,
    )
    state, rewound, masks, after = initial, initial, _all(view), k
    provenance = Provenance(
        model=type(model).__name__, round=search.rounds, rounds=search.rounds, rewind=str(search.rewind), seed=seed,
        criterion=search.criterion, allocation=search.allocation, density_asked=density, versions=versions(),
        notes={"data": name} if name else {},
    )  # fmt: skip
    for number, target in enumerate([*search.densities()[1:-1], density]):
        network = copy.deepcopy(model)
        network.load_state_dict(state)
        start = 0 if number == 0 else k
        run = Run(
            ticket=_ticket(masks, state, view.head, Provenance()), number=number, rounds=search.rounds, seed=seed,
            start=start,
        )  # fmt: skip
        returned, at_k = _fitted(fit, network, run, after if number == 0 else None)
        rewound = at_k if number == 0 else rewound
        if on_round is not None:
            on_round(number, search.rounds, returned)
        trained = Prunable(network.cpu(), head=view.head, only=view.names)
        masks = next_masks(
            trained, initial=lambda: initial, batches=_no_batches, search=search, density=target,
            alive=None if number == 0 else masks, seed=seed, number=number + 1,
        )  # fmt: skip
        state = masked_state(rewound, masks)
    return _ticket(masks, rewound, view.head, provenance)


def _fitted(fit: Fit, network: nn.Module, run: Run, k: int | None) -> tuple[Any, State]:
    """What ``fit`` returns, and the network after its step ``k``; InputError where it did not train as it was asked."""
    steps, at_k = 0, _state(network) if k == 0 else {}

    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal steps, at_k
        own = {id(parameter) for parameter in network.parameters()}
        if any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            steps += 1
            if steps == k:
                at_k = _state(network)

    handle = register_optimizer_step_post_hook(count)
    try:
        returned = fit(network, run)
    finally:
        handle.remove()
    if steps == 0:
        raise InputError("fit took no step with the model that it was given", expected="a loop that trains it in place")
    if k is not None and k >= steps:
        raise InputError(f"rewind = {k}, but fit took {steps} steps", expected=f"rewind below {steps}")
    parameters = dict(network.named_parameters(remove_duplicate=False))
    if lost := [n for n, m in run.masks.items() if bool((parameters[n].detach().cpu()[~m] != 0).any())]:
        raise InputError(
            f"fit did not keep the masks of {', '.join(lost)}", expected="with run.ticket.kept(optimizer, model=model):"
        )
    return returned, at_k


def _rewind_step(search: Search) -> int:
    """The step k; InputError for a moment in epochs, which a loop of the user's does not tell."""
    step = Step.parse(search.rewind)
    if step.iterations(1) != step.iterations(2):
        raise InputError(
            f"rewind = {search.rewind} with fit=, whose epochs are not known", expected="steps, such as '500it', or 0"
        )
    return step.iterations(1)


def _check(search: Search, density: float, view: Prunable) -> None:
    check_pair(search.criterion, search.allocation)
    plain = {"method": "rewind", "optimizer_state": "fresh", "rescale": "none"}
    for field, only in plain.items():
        if (value := getattr(search, field)) != only:
            raise InputError(f"{field} = '{value}' with fit=, which trains by itself", expected=f"{field} = '{only}'")
    if search.norm_statistics != "rewound":
        raise InputError("norm_statistics = 'fresh' with fit=", expected="norm_statistics = 'rewound'")
    if math.floor(density * view.total + 0.5) < 1:
        raise InputError(f"density = {density} leaves none of the {view.total} weights", expected="a larger density")


def _no_batches() -> Batches:
    raise InputError("this criterion looks at data", where="find_ticket", expected="magnitude with fit=")


def _all(view: Prunable) -> Masks:
    return Masks({name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in view.weights()})


def _ticket(masks: Masks, state: State, head: str, provenance: Provenance) -> Ticket:
    weights = {name: state[name] for name in masks}
    return Ticket(masks, weights, {n: t for n, t in state.items() if n not in masks}, head, provenance)


def _state(model: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
