"""What the callbacks of all libraries share: a ticket kept from the beginning of a training to its end."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from torch import nn

from oneticket.errors import InputError
from oneticket.ticket import Ticket
from oneticket.ticket.keeping import KeptTicket


class Keeper:
    """A ticket kept in a training whose beginning and end are events.

    Parameters
    ----------
    ticket : the ticket, put into the model before.
    averages : averages (EMA) of the model made before that; their masked weights are zeroed at the end, too.
    """

    def __init__(self, ticket: Ticket, averages: Sequence[nn.Module]) -> None:
        if not isinstance(ticket, Ticket):
            raise InputError(f"ticket is a {type(ticket).__name__}", where="TicketCallback", expected="a Ticket")
        self.ticket, self._averages = ticket, tuple(averages)
        self._kept: KeptTicket | None = None

    def begin(self, optimizer: Any, model: nn.Module) -> None:
        """Keep the ticket in the models it was put into, else in ``model``, which was loaded from a checkpoint."""
        self.leave()  # what an interrupted training has left
        try:
            kept = self.ticket.kept(optimizer)
        except InputError:
            kept = self.ticket.kept(optimizer, model=model)
        self._kept = kept.__enter__()

    def end(self) -> None:
        """Let go, and zero the masked weights of the averages."""
        if self._kept is not None:
            self.leave()
            for average in self._averages:
                self.ticket.apply_masks(average)

    def leave(self) -> None:
        """Let go."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.__exit__(None, None, None)


def require(library: str) -> None:
    """Raise InputError for a library that is not installed."""
    if importlib.util.find_spec(library) is None:
        raise InputError(
            f"{library} is not installed", where=f"oneticket.integrations.{library}",
            expected="pip install 'oneticket[integrations]'",
        )  # fmt: skip
