"""A ticket in Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from oneticket.errors import InputError
from oneticket.integrations.keeping import Keeper, require
from oneticket.ticket import Ticket

if TYPE_CHECKING:
    Callback = object
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:  # said when a callback is made
        Callback = object


class TicketCallback(Callback):
    """Keeps a ticket while Lightning's Trainer fits: masked weights are exactly 0.0 after each step.

    Also with mixed precision, accumulated and clipped gradients, manual optimisation, and a fit that is resumed. The
    masks are part of what is saved, and a checkpoint with other masks is refused.

    Parameters
    ----------
    ticket : the ticket; ``ticket.put_into(module)``, or into the network inside it, comes before.
    averages : averages (EMA) of the model that were made before the ticket was put in.

    Raises
    ------
    InputError : when training begins, for a module that does not carry the ticket, and for a checkpoint with others.

    Examples
    --------
    ``ticket.put_into(module.net)``, then ``Trainer(callbacks=[TicketCallback(ticket)]).fit(module)``.
    """

    def __init__(self, ticket: Ticket, *, averages: Sequence[nn.Module] = ()) -> None:
        require("lightning")
        self._keeper = Keeper(ticket, averages)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to keep the ticket: checkpoints are loaded before this."""
        self._keeper.begin(trainer.optimizers[0], pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of the model."""
        self._keeper.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of the model."""
        self._keeper.leave()

    def state_dict(self) -> dict[str, Any]:
        """The masks, for the checkpoint."""
        return {"masks": dict(self._keeper.ticket.masks)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of a training with other masks."""
        theirs, ours = state_dict["masks"], self._keeper.ticket.masks
        if theirs.keys() != ours.keys() or not all(torch.equal(theirs[n].cpu(), ours[n]) for n in ours):
            raise InputError(
                "the checkpoint was trained with other masks", where="TicketCallback", expected="the ticket it had"
            )
