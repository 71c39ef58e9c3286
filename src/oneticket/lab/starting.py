"""Where a training starts: masks × weights × normalisation × rescaling × method, put together from an archive."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.lab.archive import Archive, first_entries, state_of, view_of, with_head
from oneticket.lab.arms import DENSE, INTERPOLATED, TICKET
from oneticket.lab.description import ArmStart, Description, Round, TicketRef
from oneticket.masks import Masks
from oneticket.methods import Situation, companion_of, method
from oneticket.methods.interpolation import Interpolated
from oneticket.methods.together import Together
from oneticket.metrics.alignment import match_channels
from oneticket.pruning import Circumstances, Evidence, control, kept_count, prune
from oneticket.pruning.correspondence import Matching, stretched
from oneticket.randomness import Streams
from oneticket.search import State, masked_state, rescaled, round_start
from oneticket.training import Companion
from oneticket.weights import Origins, RescalingContext, draw, norm_names, norms, rate_factors, rescaling


class Start(msgspec.Struct, frozen=True):
    """What a training begins with: the network and its state, its masks (None: dense), and options of the loop."""

    model: nn.Module
    state: State
    masks: Masks | None
    options: dict[str, Any]


def start_of(cell: Description, archive: Archive) -> Start:
    """What the training of ``cell`` begins with."""
    if isinstance(cell.start, Round):
        return _round_start(cell, cell.start.ticket, archive)
    if isinstance(cell.start, ArmStart):
        return _ArmStart(cell, cell.start, archive).start()
    model = archive.build(cell.network, cell.seed)
    return Start(model, state_of(model), None, {})


def _round_start(cell: Description, ticket: TicketRef, archive: Archive) -> Start:
    search, masks = ticket.search, archive.masks(ticket)
    model = archive.build(cell.network, cell.seed)
    state, options = round_start(search, archive.rewound(ticket), archive.trained(ticket), state_of(model))
    if search.optimizer_state == "rewound" and search.method != "fine-tune":
        options["optimizer_state"] = archive.memory(ticket)
    state = masked_state(state, masks)
    context = RescalingContext(
        "rewound" if search.method == "rewind" else "trained",
        network=lambda: _holding(archive.build(cell.network, cell.seed), state),
        batch=lambda: next(iter(archive.evidence(cell)))[0],
    )
    state, rates = rescaled(search, state, masks, cell.recipe.optimizer, context)
    return Start(_holding(model, state), state, masks, options | rates)


def _holding(model: nn.Module, state: State) -> nn.Module:
    model.load_state_dict(state)
    return model


class _ArmStart:
    """One arm of one target, each part worked out when another asks for it."""

    def __init__(self, cell: Description, arm: ArmStart, archive: Archive) -> None:
        self.cell, self.arm, self.archive = cell, arm, archive
        self.streams = Streams(cell.seed)
        self.network = archive.build(cell.network, cell.seed)
        self.fresh = state_of(self.network)
        self.view = view_of(self.network, cell.network)

    def start(self) -> Start:
        masks, state = self.masks, self.unscaled
        weights = {name: state[name] for name in masks}
        state = state | rescaling[self.arm.rescale](weights, masks, self._rescaling_context(state))
        return Start(_holding(self.network, state), state, masks, self._options(masks))

    # -- masks ---------------------------------------------------------------------------------------------------
    @cached_property
    def masks(self) -> Masks:
        word = self.arm.mask
        if word == DENSE:
            return Masks.full(dict(self.view.weights()))
        if word == TICKET:
            return self.archive.masks(self._ticket)
        if word in control:
            return self._control(word)
        evidence = Evidence(
            initial=lambda: self.fresh,
            batches=lambda: self.archive.evidence(self.cell),
            generator=lambda: self._mask_stream(word),
        )
        return prune(self.view, evidence, criterion=word, allocation=self.arm.allocation, density=self.arm.density)

    @property
    def _ticket(self) -> TicketRef:
        if self.arm.ticket is None:
            raise InputError(f"the arm looks at a ticket, but has none: mask '{self.arm.mask}'")
        return self.arm.ticket

    def _control(self, word: str) -> Masks:
        if _by_density(word):
            # Whatever else the arm looks at, the positions do not depend on a ticket: one draw for all sources.
            full = Masks.full(dict(self.view.weights()))
            given = first_entries(full, kept_count(self.arm.density, self.view.total))
        else:
            given = self.archive.masks(self._ticket)
        return control[word](given, self._circumstances(self._mask_stream(word)))

    def _mask_stream(self, word: str) -> torch.Generator:
        return self.streams.generator("mask", word, f"{self.arm.density:.12g}")

    def _circumstances(self, generator: torch.Generator) -> Circumstances:
        return Circumstances(
            generator=lambda: generator,
            initial=lambda: self.archive.initial(self._ticket.dense),
            trained=lambda: self.archive.end(self._ticket.dense),
            matching=self._matching,
            shapes=lambda: {name: tuple(weight.shape) for name, weight in self.view.weights()},
        )

    def _matching(self) -> Matching:
        """The order of the mask's channels that this replicate's network answers to, by activations on the source."""
        assert self.arm.values is not None  # the plan gives one wherever masks come from another seed
        here, there = (self._densely_trained(ticket) for ticket in (self.arm.values, self._ticket))
        source = self.archive.description(self.arm.values.dense)
        return match_channels(here, there, self.archive.evidence(source), names=self.view.names)

    def _densely_trained(self, ticket: TicketRef) -> nn.Module:
        description = self.archive.description(ticket.dense)
        return _holding(self.archive.build(description.network, description.seed), self.archive.end(ticket.dense))

    # -- weights -------------------------------------------------------------------------------------------------
    @cached_property
    def unscaled(self) -> State:
        """The state before rescaling, masked."""
        if self.arm.pretrained is not None:
            drawn = self.archive.end(self.arm.pretrained)
        else:
            drawn = draw[self.arm.weights](self._origins)
            if self.arm.norms != INTERPOLATED:
                drawn = norms[self.arm.norms](drawn, self._origins, norm_names(self.network))
            else:
                drawn = norms["trained"](drawn, self._origins, norm_names(self.network))
        return masked_state(with_head(drawn, self.fresh, self.cell.network.head), self.masks)

    @cached_property
    def _origins(self) -> Origins:
        giver = self.arm.values or self.arm.ticket
        return Origins(
            initial=self._initial,
            redrawn=self._redrawn,
            rewound=(lambda: self._fitted(self.archive.rewound(giver))) if giver else None,
            trained=(lambda: self._fitted(self.archive.trained(giver))) if giver else None,
            masks=lambda: self.masks,
            generator=lambda: self.streams.generator("init", "draw", self.arm.weights),
        )

    def _initial(self) -> State:
        """W_0 of the network that the ticket was found in: with other classes even its body is drawn differently.

        It is the target's own where there is no ticket, and under a mask that rests on none (scored on this W_0, or of
        the density alone): a ticket that is there for the rescaling's sake changes no start.
        """
        giver = self.arm.values or self.arm.ticket
        of_none = self.arm.mask not in (DENSE, TICKET, *control) or _by_density(self.arm.mask)
        if giver is None or (of_none and self.arm.weights == "initial"):
            return dict(self.fresh)
        return self._fitted(self.archive.initial(giver.dense))

    def _redrawn(self) -> State:
        return state_of(self.archive.build(self.cell.network, self.cell.seed, draw_key="redrawn"))

    def _fitted(self, state: State) -> State:
        """The state of a network of another depth, its blocks repeated or dropped; every other state as it is."""
        if self.arm.mask != "elastic":
            return dict(state)
        head = f"{self.cell.network.head}."  # drawn anew anyway, and of another shape where there are other classes
        body = {n: tensor for n, tensor in self.fresh.items() if n in self.view.names or not n.startswith(head)}
        return stretched(state, {name: tuple(tensor.shape) for name, tensor in body.items()})

    # -- rescaling and method ------------------------------------------------------------------------------------
    def _rescaling_context(self, state: State) -> RescalingContext:
        def ticket() -> Masks:
            return self.masks if self.arm.mask == "elastic" else self.archive.masks(self._ticket)

        def random() -> tuple[State, Masks]:
            return self._redrawn(), self._control("globally-permuted")

        return RescalingContext(
            # Weights from a pre-training are at a ticket's scale: trained.
            self.arm.weights if self.arm.pretrained is None else "trained",
            generator=lambda: self.streams.generator("init", "rescale", self.arm.rescale),
            network=lambda: _holding(self.archive.build(self.cell.network, self.cell.seed), state),
            batch=lambda: next(iter(self.archive.evidence(self.cell)))[0],
            ticket=lambda: (self._fitted(self.archive.rewound(self._ticket)), ticket()),
            random=random,
        )

    def _options(self, masks: Masks) -> dict[str, Any]:
        recipe, facts = self.cell.recipe, method.entry(self.arm.method).facts
        options: dict[str, Any] = {}
        if facts.get("lr") == "last":
            options["lr_schedule"] = "last"
        if facts.get("start") == "rewind":
            options["start"] = self.arm.rewind
        factors = rate_factors(self.arm.rescale, masks, recipe.optimizer)
        if factors:
            options["lr_factors"] = factors
        companion: Companion = companion_of(
            self.arm.method, Situation(self.arm.density, self.cell.network.head, recipe), self.arm.options
        )
        if self.arm.norms == INTERPOLATED:
            names = norm_names(self.network)
            trained, fresh = self._origins.trained(), self._origins.redrawn()
            interpolated = Interpolated({n: trained[n] for n in names}, {n: fresh[n] for n in names})
            companion = Together([interpolated, companion])
        return options | {"companion": companion}


def _by_density(word: str) -> bool:
    """Whether a mask is a control's that looks at the number of kept weights only."""
    return word in control and control.entry(word).facts.get("needs") == "density"
