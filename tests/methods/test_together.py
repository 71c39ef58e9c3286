"""Several companions as one: each is called, in its turn, and finds its own state again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from oneticket.methods.together import Together
from oneticket.training import Companion, Course, Recipe, train


class Spoken(Companion):
    """Says what it is called for, and remembers a number."""

    def __init__(self, name: str, calls: list[str], penalty: float | None = None) -> None:
        self._name, self._calls, self._penalty, self.memory = name, calls, penalty, 0

    def _say(self, what: str) -> None:
        self._calls.append(f"{self._name} {what}")

    def begin(self, course: Course) -> None:
        self._say("begins")

    def before_forward(self, step: int) -> None:
        self._say("before forward")

    def after_backward(self, step: int) -> None:
        self._say("after backward")

    def after_step(self, step: int) -> None:
        self._say("after step")

    def finish(self) -> None:
        self._say("finishes")

    def penalty(self) -> Tensor | None:
        return None if self._penalty is None else torch.tensor(self._penalty)

    @contextmanager
    def judged(self) -> Iterator[None]:
        self._say("in")
        yield
        self._say("out")

    def state(self) -> dict[str, Any]:
        return {"memory": self.memory}

    def resume(self, state: dict[str, Any]) -> None:
        self.memory = state["memory"]


def test_the_order_of_calls_in_a_training() -> None:
    calls: list[str] = []
    data = torch.randn(2, 3), torch.tensor([0, 1])
    companion = Together([Spoken("a", calls), Spoken("b", calls)])
    train(torch.nn.Linear(3, 2), data, Recipe.sgd(epochs=1), companion=companion)
    assert calls == [
        *("a begins", "b begins", "a before forward", "b before forward"),
        *("b after backward", "a after backward", "a after step", "b after step"),
        *("a in", "b in", "b out", "a out", "a finishes", "b finishes"),
    ]


@pytest.mark.parametrize(
    ("parts", "expected"), [([None, None], None), ([None, 2.0], 2.0), ([1.5, None, 2.0], 3.5), ([], None)]
)
def test_penalties_add_up(parts: list[float | None], expected: float | None) -> None:
    found = Together([Spoken("x", [], part) for part in parts]).penalty()
    assert (None if found is None else float(found)) == expected


def test_each_finds_its_own_state() -> None:
    one = Together([Spoken("a", []), Together([Spoken("b", []), Spoken("c", [])])])
    inner = [Spoken(name, []) for name in "abc"]
    other = Together([inner[0], Together(inner[1:])])
    state = one.state()
    state["companions"][0]["memory"] = 4
    state["companions"][1]["companions"][1]["memory"] = 7
    other.resume(state)
    assert [companion.memory for companion in inner] == [4, 0, 7]
