"""Methods that change how long and how fast a network is trained, or which part of it, and nothing else."""

from __future__ import annotations

from oneticket.methods.base import MethodContext, method
from oneticket.training import Companion, Course


@method("train")
def train(_: MethodContext) -> Companion:
    """The whole recipe."""
    return Companion()


@method("fine-tune", source="Han et al. 2015; Renda et al. 2020", lr="last")
def fine_tune(_: MethodContext) -> Companion:
    """The recipe at its last learning rate throughout."""
    return Companion()


@method("lr-rewind", source="Renda et al. 2020", start="rewind")
def lr_rewind(_: MethodContext) -> Companion:
    """The recipe from the rewind point on, with the schedule it has there."""
    return Companion()


@method("linear-probe", source="Alain & Bengio 2017")
def linear_probe(context: MethodContext) -> Companion:
    """The head alone; the rest of the network stays as it is, normalisation statistics too."""
    return _Probe(context.head)


class _Probe(Companion):
    def __init__(self, head: str) -> None:
        self._head = head

    def begin(self, course: Course) -> None:
        self._course = course
        self._trained = {p: p.requires_grad for p in course.model.parameters()}
        head = set(course.model.get_submodule(self._head).parameters())
        for parameter in course.model.parameters():
            parameter.requires_grad_(parameter in head)

    def before_forward(self, step: int) -> None:
        self._course.model.eval()

    def finish(self) -> None:
        for parameter, trained in self._trained.items():
            parameter.requires_grad_(trained)
