"""Where a training starts: masks × weights × normalisation × rescaling × method, assembled from finished cells."""

from __future__ import annotations

from functools import cached_property

import msgspec
import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.lab.cells.definitions import is_he_normal
from oneticket.lab.cells.description import ArmStart, Description, Round, TicketRef
from oneticket.lab.cells.parents import ParentCells, first_entries, state_of, view_of, with_head
from oneticket.lab.cells.rates import cycles_of
from oneticket.lab.cells.tensors import load_masks
from oneticket.lab.spec.arms import DENSE, INTERPOLATED, TICKET
from oneticket.masks import Masks
from oneticket.methods import METHODS, MethodContext, callback_of
from oneticket.methods.interpolation import Interpolated, interpolating
from oneticket.metrics.alignment import match_channels
from oneticket.pruning import CONTROLS, ControlContext, ScoreContext, kept_count, prune
from oneticket.pruning.controls import naturally_zero
from oneticket.pruning.correspondence import Matching, stretched
from oneticket.randomness import Streams
from oneticket.search import begin_round, masked_state
from oneticket.training import Callback, Start
from oneticket.weights import DRAWS, NORMS, DrawContext, Rescaled, RescalingContext, State, norm_names, rescale
from oneticket.weights.norms import gains_behind


class Assembled(msgspec.Struct, frozen=True):
    """The start of a training: the network, its state and masks (None: dense), and where its recipe starts.

    ``naturally_zero`` is the fraction of the prunable weights that dense training drove to zero, where the masks were
    corrected for them.
    """

    model: nn.Module
    state: State
    masks: Masks | None
    start: Start
    naturally_zero: float | None = None


def assemble(cell: Description, parents: ParentCells) -> Assembled:
    """Assemble the start of the training of ``cell``."""
    if isinstance(cell.start, Round):
        return _round_start(cell, cell.start.ticket, parents)
    if isinstance(cell.start, ArmStart):
        return _ArmStart(cell, cell.start, parents).assembled()
    model = parents.build(cell.network, cell.seed)
    return Assembled(model, state_of(model), None, Start())


def _round_start(cell: Description, ticket: TicketRef, parents: ParentCells) -> Assembled:
    search, masks = ticket.search, parents.masks(ticket)
    model = parents.build(cell.network, cell.seed)
    fresh = state_of(model)
    state, start = begin_round(
        search,
        masks,
        rewound=lambda: parents.rewound(ticket),
        memory=lambda: parents.memory(ticket),
        trained=lambda: parents.trained(ticket),
        fresh=fresh,
        optimizer=cell.recipe.optimizer,
        network=lambda state: _holding(parents.build(cell.network, cell.seed), state),
        batch=lambda: next(iter(parents.evidence(cell)))[0],
    )
    if search.norms == "interpolated":
        start = interpolating(start, model, state, fresh)
    return Assembled(_holding(model, state), state, masks, start)


def _holding(model: nn.Module, state: State) -> nn.Module:
    model.load_state_dict(state)
    return model


class _ArmStart:
    """One arm of one target; each part is computed when another part needs it."""

    def __init__(self, cell: Description, arm: ArmStart, parents: ParentCells) -> None:
        self.cell, self.arm, self.parents = cell, arm, parents
        self.streams = Streams(cell.seed)
        self.network = parents.build(cell.network, cell.seed)
        self.fresh = state_of(self.network)
        self.view = view_of(self.network, cell.network)

    def assembled(self) -> Assembled:
        masks, state = self.kept, self.unscaled
        weights = {name: state[name] for name in masks}
        context = self._rescaling_context(state)
        made = rescale(self.arm.rescale, weights, masks, context, optimizer=self.cell.recipe.optimizer)
        state = state | made.weights
        return Assembled(_holding(self.network, state), state, masks, self._start(made), self._naturally_zero())

    # -- masks ---------------------------------------------------------------------------------------------------
    @cached_property
    def kept(self) -> Masks:
        """The masks outside of which weights are zero: all are kept where the method freezes weights instead."""
        return Masks.full(dict(self.view.weights())) if self._freezes else self.masks

    @property
    def _freezes(self) -> bool:
        return METHODS.entry(self.arm.method).facts.masked == "frozen"

    @cached_property
    def masks(self) -> Masks:
        word = self.arm.mask
        if self.arm.maker:
            return self._made(self.arm.maker)
        if word == DENSE:
            return Masks.full(dict(self.view.weights()))
        if word == TICKET:
            return self.parents.masks(self._ticket)
        if word in CONTROLS:
            return self._control(word)
        context = ScoreContext(
            initial=lambda: self.fresh,
            batches=lambda: self.parents.evidence(self.cell),
            generator=lambda: self._mask_stream(word),
            loss=self.parents.loss_of(self.cell),
        )
        return prune(self.view, context, criterion=word, allocation=self.arm.allocation, density=self.arm.density)

    def _made(self, maker: str) -> Masks:
        """The masks that a training gives: its own, or those of the weights that it moved furthest."""
        made = self.parents.description(maker).start
        if isinstance(made, ArmStart) and METHODS.entry(made.method).facts.makes == "masks":
            found = load_masks(self.parents.store.file(maker, "masks.safetensors"))
            return Masks({name: found[name] for name in self.view.names})
        before = with_head(self.parents.trained(self._ticket), self.fresh, self.cell.network.head)
        moved = _holding(self.parents.build(self.cell.network, self.cell.seed), self.parents.end(maker))
        context = ScoreContext(initial=lambda: before)
        view = view_of(moved, self.cell.network)
        return prune(view, context, criterion="movement", allocation=self.arm.allocation, density=self.arm.density)

    @property
    def _ticket(self) -> TicketRef:
        if self.arm.ticket is None:
            raise InputError(f"the arm needs a ticket, but the plan gives it none: mask '{self.arm.mask}'")
        return self.arm.ticket

    def _control(self, word: str) -> Masks:
        if _by_density(word):
            # The positions never depend on a ticket, even if the arm uses one elsewhere: one draw for all sources.
            full = Masks.full(dict(self.view.weights()))
            given = first_entries(full, kept_count(self.arm.density, self.view.total))
        else:
            given = self.parents.masks(self._ticket)
        return CONTROLS[word](given, self._control_context(word))

    def _naturally_zero(self) -> float | None:
        """The fraction of the weights that dense training drove to zero, for the control that looks at it."""
        if self.arm.mask != "natural-corrected":
            return None
        return naturally_zero(self.masks, self._control_context(self.arm.mask)).density

    def _mask_stream(self, word: str) -> torch.Generator:
        return self.streams.generator("mask", word, f"{self.arm.density:.12g}")

    def _control_context(self, word: str) -> ControlContext:
        return ControlContext(
            generator=lambda: self._mask_stream(word),
            initial=lambda: self.parents.initial(self._ticket.dense),
            trained=lambda: self.parents.end(self._ticket.dense),
            matching=self._matching,
            shapes=lambda: {name: tuple(weight.shape) for name, weight in self.view.weights()},
            head=lambda: self.view.head_weight,
            gains=self._gains,
            blocks=self.arm.blocks or "append",
        )

    def _gains(self) -> State:
        """γ of the normalisations behind the layers, after the dense training in which the ticket's search began."""
        network = self._densely_trained(self._ticket)
        return gains_behind(network, self.parents.example(self.parents.description(self._ticket.dense).network))

    def _matching(self) -> Matching:
        """The order of the mask's channels that matches this replicate's network, by activations on the source."""
        assert self.arm.values is not None  # the plan sets it wherever masks come from another seed
        here, there = (self._densely_trained(ticket) for ticket in (self.arm.values, self._ticket))
        source = self.parents.description(self.arm.values.dense)
        return match_channels(here, there, self.parents.evidence(source), names=self.view.names)

    def _densely_trained(self, ticket: TicketRef) -> nn.Module:
        description = self.parents.description(ticket.dense)
        return _holding(self.parents.build(description.network, description.seed), self.parents.end(ticket.dense))

    # -- weights -------------------------------------------------------------------------------------------------
    @cached_property
    def unscaled(self) -> State:
        """The state before rescaling, masked."""
        if self.arm.pretrained is not None:
            drawn = self.parents.end(self.arm.pretrained)
        else:
            drawn = DRAWS[self.arm.weights](self._draw_context)
            if self.arm.norms != INTERPOLATED:
                drawn = NORMS[self.arm.norms](drawn, self._draw_context, norm_names(self.network))
            else:
                drawn = NORMS["trained"](drawn, self._draw_context, norm_names(self.network))
        if self._keeps_head:
            return masked_state(drawn, self.kept)
        return masked_state(with_head(drawn, self.fresh, self.cell.network.head), self.kept)

    @property
    def _keeps_head(self) -> bool:
        """Whether the head is not drawn afresh: that of W_k where a mask is searched, or one with the signs of W_T.

        Both on the data of the giver only: with other classes they would mean nothing.
        """
        giver = self.arm.values or self.arm.ticket
        searches = METHODS.entry(self.arm.method).facts.searches is not None
        signed = self.arm.weights in DRAWS and DRAWS.entry(self.arm.weights).facts.head == "own"
        return (
            (searches or signed) and giver is not None and self.parents.description(giver.dense).data == self.cell.data
        )

    @cached_property
    def _draw_context(self) -> DrawContext:
        giver = self.arm.values or self.arm.ticket
        return DrawContext(
            initial=self._initial,
            redrawn=self._redrawn,
            rewound=(lambda: self._fitted(self.parents.rewound(giver))) if giver else None,
            trained=(lambda: self._fitted(self.parents.trained(giver))) if giver else None,
            masks=lambda: self.masks,
            generator=lambda: self.streams.generator("init", "draw", self.arm.weights),
        )

    def _initial(self) -> State:
        """W_0 of the network in which the ticket was found: with other classes even its body is drawn differently.

        Without a ticket it is the target's own W_0. So it is under a mask that does not depend on a ticket (scored on
        this W_0, or by the density alone): a ticket needed only for the rescaling does not change the start.
        """
        giver = self.arm.values or self.arm.ticket
        of_none = self.arm.mask not in (DENSE, TICKET, *CONTROLS) or _by_density(self.arm.mask)
        if giver is None or (of_none and self.arm.weights == "initial"):
            return dict(self.fresh)
        return self._fitted(self.parents.initial(giver.dense))

    def _redrawn(self) -> State:
        return state_of(self.parents.build(self.cell.network, self.cell.seed, draw_key="redrawn"))

    def _fitted(self, state: State) -> State:
        """For an elastic mask, ``state`` with blocks repeated or dropped to fit the depth; otherwise unchanged."""
        if self.arm.mask != "elastic":
            return dict(state)
        head = f"{self.cell.network.head}."  # drawn anew anyway, and its shape differs where the classes differ
        body = {n: tensor for n, tensor in self.fresh.items() if n in self.view.names or not n.startswith(head)}
        shapes = {name: tuple(tensor.shape) for name, tensor in body.items()}
        return stretched(state, shapes, self.arm.blocks or "append")

    # -- rescaling and method ------------------------------------------------------------------------------------
    def _rescaling_context(self, state: State) -> RescalingContext:
        def ticket() -> Masks:
            has_own = self.arm.mask == "elastic" or bool(self.arm.maker)
            return self.masks if has_own else self.parents.masks(self._ticket)

        def random() -> tuple[State, Masks]:
            return self._redrawn(), self._control("globally-permuted")

        return RescalingContext(
            # Weights from a pre-training are at a ticket's scale: trained.
            self.arm.weights if self.arm.pretrained is None else "trained",
            he_normal=is_he_normal(self.cell),
            generator=lambda: self.streams.generator("init", "rescale", self.arm.rescale),
            network=lambda: _holding(self.parents.build(self.cell.network, self.cell.seed), state),
            batch=lambda: next(iter(self.parents.evidence(self.cell)))[0],
            ticket=lambda: (self._fitted(self.parents.rewound(self._ticket)), ticket()),
            random=random,
        )

    def _start(self, made: Rescaled) -> Start:
        recipe, facts = self.cell.recipe, METHODS.entry(self.arm.method).facts
        context = MethodContext(self.arm.density, self.cell.network.head, recipe, masks=lambda: self.masks)
        callbacks: list[Callback] = [callback_of(self.arm.method, context, self.arm.options)]
        if self.arm.norms == INTERPOLATED:
            names = norm_names(self.network)
            trained, fresh = self._draw_context.trained, self._draw_context.redrawn
            callbacks.insert(0, Interpolated({n: trained[n] for n in names}, {n: fresh[n] for n in names}))
        moments: dict[str, str | int] = {
            "first": self.arm.rewind or 0,  # a budget may begin any method at k
            "rewind": self.arm.rewind,
            "end": f"{recipe.epochs}ep",
        }
        return Start(
            step=moments[facts.start],
            lr_schedule="last" if facts.lr == "last" else "recipe",
            cycles=cycles_of(self.cell.start),
            lr_factors=made.lr_factors,
            callbacks=tuple(callbacks),
        )


def _by_density(word: str) -> bool:
    """Whether a mask belongs to a control that uses only the number of kept weights."""
    return word in CONTROLS and CONTROLS.entry(word).facts.needs == "density"
