"""A ticket in Hugging Face's Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from oneticket.integrations.keeping import Keeper, require
from oneticket.ticket import Ticket

if TYPE_CHECKING:
    TrainerCallback = object
else:
    try:
        from transformers import TrainerCallback
    except ImportError:  # said when a callback is made
        TrainerCallback = object


class TicketCallback(TrainerCallback):
    """Keeps a ticket while Hugging Face's Trainer trains: masked weights are exactly 0.0 after each step.

    Also with mixed precision, accumulated and clipped gradients, and a training that is resumed. Each checkpoint gets
    the ticket beside it, as ``ticket.safetensors``.

    Parameters
    ----------
    ticket : the ticket; ``ticket.put_into(model)`` comes before, except where a checkpoint that carries it is resumed.
    averages : averages (EMA) of the model that were made before the ticket was put in.

    Raises
    ------
    InputError : when training begins, for a model that does not carry the ticket.

    Examples
    --------
    ``ticket.put_into(model)``, then ``Trainer(model, …, callbacks=[TicketCallback(ticket)])``.
    """

    def __init__(self, ticket: Ticket, *, averages: Sequence[nn.Module] = ()) -> None:
        require("transformers")
        self._keeper = Keeper(ticket, averages)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to keep the ticket: checkpoints are loaded before this."""
        self._keeper.begin(kwargs["optimizer"], kwargs["model"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the ticket beside the checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self._keeper.ticket.save(folder / "ticket.safetensors")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of the model."""
        self._keeper.end()
