"""A ticket in a loop with Hugging Face's Accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from oneticket.errors import InputError
from oneticket.ticket import Ticket
from oneticket.ticket.hooks import Loading
from oneticket.ticket.keeping import KeptTicket


@contextmanager
def kept(ticket: Ticket, accelerator: Any) -> Iterator[None]:
    """A context in which masked weights are exactly 0.0 after each step, also after ``accelerator.load_state``.

    Parameters
    ----------
    ticket : the ticket; ``ticket.put_into(model)`` comes before.
    accelerator : the ``accelerate.Accelerator`` that has prepared models and optimisers.

    Raises
    ------
    InputError : for one that has prepared no model or optimiser, or none that carries the ticket.

    Examples
    --------
    ``ticket.put_into(model)``, then ``with kept(ticket, accelerator):`` around the loop.
    """
    models, optimizers = getattr(accelerator, "_models", None), getattr(accelerator, "_optimizers", None)
    if not models or not optimizers:
        raise InputError(
            "the accelerator has not prepared a model and an optimiser", where="oneticket.integrations.accelerate.kept",
            expected="model, optimizer = accelerator.prepare(model, optimizer) before",
        )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(_kept(ticket, optimizers))
        for model in models:  # what is loaded inside carries the ticket before it computes anything
            hook = model.register_load_state_dict_post_hook(Loading(partial(ticket.apply_masks, model)))
            stack.callback(hook.remove)
        yield


def _kept(ticket: Ticket, optimizers: list[Any]) -> KeptTicket:
    """The ticket kept in its models, which holds for all optimisers: the first one that steps them names them."""
    for optimizer in optimizers[:-1]:
        with suppress(InputError):
            return ticket.kept(optimizer)
    return ticket.kept(optimizers[-1])
