"""Methods that change only the learning rate, the length or the trained part of a training."""

from __future__ import annotations

from oneticket.methods.base import MethodContext, method
from oneticket.training import Callback, TrainState


@method("train")
def train(_: MethodContext) -> Callback:
    """The whole recipe."""
    return Callback()


@method("fine-tune", source="Han et al. 2015; Renda et al. 2020", lr="last")
def fine_tune(_: MethodContext) -> Callback:
    """The recipe at its last learning rate throughout; at the mean of its last tenth where it falls to the end."""
    return Callback()


@method("lr-rewind", source="Renda et al. 2020", start="rewind")
def lr_rewind(_: MethodContext) -> Callback:
    """The recipe from the rewind point on, with the schedule it has there."""
    return Callback()


@method("linear-probe", source="Alain & Bengio 2017")
def linear_probe(context: MethodContext) -> Callback:
    """The head alone; the rest of the network stays as it is, normalisation statistics too."""
    return _Probe(context.head)


@method("evaluate", source="Zhou et al. 2019", start="end")
def evaluate(_: MethodContext) -> Callback:
    """No step at all: the network is judged as it is put together."""
    return Callback()


class _Probe(Callback):
    def __init__(self, head: str) -> None:
        self._head = head

    def on_train_start(self, state: TrainState) -> None:
        self._trained = {p: p.requires_grad for p in state.model.parameters()}
        head = set(state.model.get_submodule(self._head).parameters())
        for parameter in state.model.parameters():
            parameter.requires_grad_(parameter in head)

    def before_forward(self, state: TrainState) -> None:
        state.model.eval()

    def on_train_end(self, state: TrainState) -> None:
        for parameter, trained in self._trained.items():
            parameter.requires_grad_(trained)
