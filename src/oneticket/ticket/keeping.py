"""Keeping a ticket's masks while any loop trains: whatever happens to parameters, groups and optimisers meanwhile."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from oneticket.errors import InputError
from oneticket.masks import Masks
from oneticket.ticket.hooks import Loading
from oneticket.ticket.spots import FrozenSpot, Spot
from oneticket.ticket.twins import Twin, Twins, fits
from oneticket.words import Masked


class Carrier(NamedTuple):
    """A model that carries a ticket, the masks that lie in it by the names of its parameters, and its twins."""

    model: nn.Module
    masks: Masks
    twins: Twins


class KeptTicket:
    """A context in which the masked weights of some models are exactly 0.0 after every step of every optimiser.

    * A gradient is masked as it arises, so that what looks at gradients between ``backward`` and ``step`` (clipping, a
      norm, noise) never sees masked weights; and again before a step, as it may have been written since.
    * Weights are masked after each step, so that no weight decay, momentum or exotic optimiser brings one back.
    * An optimiser's memory of masked weights is zeroed when it first steps, and after its ``load_state_dict``.

    Models are looked up by name at each step, and all optimisers are listened to: added groups, parameters put anew and
    further optimisers over the same model are kept, too. It is told where that came too late: masked weights that
    something other than an optimiser wrote (and that a forward pass may have used), and a copy of the model that does
    not carry the ticket and is changed without an optimiser, as an average made before the ticket was put in.

    With ``masked="frozen"`` masked weights are held at the values that they have when this object is made, instead of
    at 0.0; with ``loaded_later`` at those that are loaded.

    Parameters
    ----------
    optimizer : an optimiser over parameters of the models.
    carriers : the models, with their masks.
    place : file and line to which warnings point.
    loaded_later : whether the models need not carry the ticket yet, as a checkpoint that does is loaded inside.

    Raises
    ------
    InputError
        On entering, for a model whose masked weights are not zero; in a step, for a masked parameter that the model
        no longer has.
    """

    _entered = True  # until there is an object that could be entered
    _warned = staticmethod(warnings.warn_explicit)  # held: at the end of a program modules are emptied before objects

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        carriers: Sequence[Carrier],
        place: tuple[str, int],
        loaded_later: bool = False,
        masked: Masked = "zero",
    ) -> None:
        self.optimizer = optimizer
        self._loaded_later = loaded_later
        self._frozen = masked == "frozen"
        kind = FrozenSpot if self._frozen else Spot
        self._place = place
        self._carriers = carriers
        self._spots = [kind(c.model, name, mask) for c in carriers for name, mask in c.masks.items()]
        self._handles: list[Any] = []
        self._told: set[str] = set()
        # The memory of each optimiser as it was last masked; `load_state_dict` puts another in its place.
        self._memories: weakref.WeakKeyDictionary[torch.optim.Optimizer, Any] = weakref.WeakKeyDictionary()
        self._copies: list[Twin] = []
        self._stepped: set[int] = set()
        self._steps = 0
        if not loaded_later:
            self.check()
        self._entered = False

    def check(self) -> None:
        """Raise InputError unless all masked weights are zero, or at the values at which they are held."""
        if drifted := [spot.name for spot in self._spots if spot.differs(spot.parameter())]:
            if self._frozen:
                raise InputError(
                    f"masked weights of {', '.join(drifted)} have changed since ticket.kept(…) was called",
                    where="Ticket.kept",
                    expected="with ticket.kept(…) right where training begins, or loaded_later=True",
                )
            raise InputError(
                f"the model does not carry this ticket: masked weights of {', '.join(drifted)} are not zero",
                where="Ticket.kept",
                expected="ticket.put_into(model) before, and no step without ticket.kept(…) since",
            )

    def __enter__(self) -> KeptTicket:
        if self._handles:
            raise InputError("this context is entered twice", where="Ticket.kept", expected="a context of its own")
        self._entered = True
        if not self._loaded_later:
            self.check()
        self._copies = self._copies_without_ticket()
        self._stepped, self._steps = set(), 0
        for spot in self._spots:
            spot.renew()
        self._mask_memory(self.optimizer)
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step), register_optimizer_step_post_hook(self._after_step),
        ]  # fmt: skip
        if self._loaded_later:
            loading = Loading(self._after_loading)
            models: list[Any] = [carrier.model for carrier in self._carriers]
            self._handles += [model.register_load_state_dict_post_hook(loading) for model in models]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        try:
            if error is None:
                self._renew()
                self._look_at_copies()
        finally:
            for spot in self._spots:
                spot.release()

    def __del__(self) -> None:
        if not self._entered:
            self._warn("ticket.kept(…) was never entered, so no mask was kept; write `with ticket.kept(optimizer):`")

    # -- around a step -----------------------------------------------------------------------------------------------
    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        self._renew()
        spots = self._of(optimizer)
        if not spots:
            return None
        if self._steps & (self._steps - 1) == 0:  # ever more rarely: it reads whole tensors
            self._look_at_copies()
        self._steps += 1
        _mask_gradients(spots)
        if self._memories.get(optimizer) is not optimizer.state:
            self._mask_memory(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        # What a closure does to gradients happens inside the step.
        def masking() -> Any:
            loss = closure()
            _mask_gradients(spots)
            return loss

        return (args[0], masking, *args[2:]), {key: value for key, value in kwargs.items() if key != "closure"}

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for spot in self._of(optimizer):
            spot.mask()

    def _after_loading(self) -> None:
        """Carry the ticket before anything is computed with the weights that were loaded."""
        for spot in self._spots:
            if isinstance(spot, FrozenSpot):
                spot.take()
            spot.renew()

    def _of(self, optimizer: torch.optim.Optimizer) -> list[Spot]:
        """Those that the optimiser steps; of the others, a backward pass under way may yet need the values."""
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._stepped |= stepped
        return [spot for spot in self._spots if id(spot.held) in stepped]

    def _renew(self) -> None:
        """Take up parameters that were put anew; tell of masked weights that were written outside of a step."""
        written = [spot.name for spot in self._spots if spot.renew()]
        if written:
            self._warn(
                f"masked weights of {', '.join(written)} were written outside of an optimiser's step (load_state_dict, "
                f"a parameter put anew); they are {self._at} again, but a forward pass may have used them"
            )

    @torch.no_grad()
    def _mask_memory(self, optimizer: torch.optim.Optimizer) -> None:
        for spot in self._spots:
            for value in optimizer.state.get(spot.parameter(), {}).values():
                if isinstance(value, Tensor) and value.shape == spot.gone.shape:
                    spot.forget(value)
        self._memories[optimizer] = optimizer.state

    @property
    def _at(self) -> str:
        return "at the values at which they are frozen" if self._frozen else "0.0"

    # -- what can't be kept ------------------------------------------------------------------------------------------
    def _copies_without_ticket(self) -> list[Twin]:
        found = []
        for carrier in self._carriers:
            spots = [spot for spot in self._spots if spot.model is carrier.model]
            gone = {spot.name: spot.gone for spot in spots}
            alive = (module for twin in carrier.twins if (module := twin()) is not None)
            for module in (module for module in alive if fits(module, gone)):
                parameters = dict(module.named_parameters(remove_duplicate=False))
                if any(spot.differs(parameters[spot.name]) for spot in spots):
                    found.append(Twin(module, gone))
        return found

    def _look_at_copies(self) -> None:
        for copy in [copy for copy in self._copies if copy.averages(self._stepped)]:
            self._copies.remove(copy)
            self._warn(
                f"a copy of the model ({copy.kind}) is changed beside it, as an average (EMA) of its weights is, but "
                + (
                    "has other masked weights than those that are frozen; make it of the model as it is now"
                    if self._frozen
                    else "does not carry the ticket: its masked weights are not 0.0; put the ticket into it, too, or "
                    "make it after put_into"
                )
            )

    def _warn(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._warned(text, UserWarning, *self._place)


def _mask_gradients(spots: Sequence[Spot]) -> None:
    for spot in spots:
        spot.mask_gradient()


def caller() -> tuple[str, int]:
    """File and line of the code that called the function that calls this."""
    frame = sys._getframe(2)
    return frame.f_code.co_filename, frame.f_lineno
