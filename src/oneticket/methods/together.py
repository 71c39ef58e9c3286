"""Several companions of one training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from oneticket.training import Companion, Course


class Together(Companion):
    """The given companions as one, each called in its turn; what one puts back after the others is put back first.

    At most one of them may make masks.
    """

    def __init__(self, companions: Sequence[Companion]) -> None:
        self._companions = list(companions)

    def begin(self, course: Course) -> None:
        for companion in self._companions:
            companion.begin(course)

    def before_forward(self, step: int) -> None:
        for companion in self._companions:
            companion.before_forward(step)

    def penalty(self) -> Tensor | None:
        parts = [part for companion in self._companions if (part := companion.penalty()) is not None]
        return sum(parts[1:], parts[0]) if parts else None

    def after_backward(self, step: int) -> None:
        for companion in reversed(self._companions):
            companion.after_backward(step)

    def after_step(self, step: int) -> None:
        for companion in self._companions:
            companion.after_step(step)

    @contextmanager
    def judged(self) -> Iterator[None]:
        with ExitStack() as stack:
            for companion in self._companions:
                stack.enter_context(companion.judged())
            yield

    def finish(self) -> None:
        for companion in self._companions:
            companion.finish()

    def state(self) -> dict[str, Any]:
        return {"companions": [companion.state() for companion in self._companions]}

    def resume(self, state: dict[str, Any]) -> None:
        for companion, own in zip(self._companions, state["companions"], strict=True):
            companion.resume(own)
