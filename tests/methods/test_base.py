"""The registry of methods: options from a file become typed arguments, and what is wrong is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from oneticket.errors import InputError
from oneticket.methods import METHODS, MethodContext, callback_of, method, method_options
from oneticket.training import Callback, Recipe

CONTEXT = MethodContext(0.5, "head", Recipe.sgd(epochs=1))


class Told(Callback):
    """Knows what it was made with."""

    def __init__(self, *told: Any) -> None:
        self.told = told


@pytest.fixture
def invented() -> Iterator[str]:
    name = "invented-for-a-test"

    @method(name, makes="masks", later=("extra",))
    def invention(
        context: MethodContext,
        *,
        rate: float = 0.5,
        every: int = 10,
        kind: Literal["soft", "hard"] = "soft",
        extra: float = 1.0,
    ) -> Callback:
        """For a test."""
        return Told(context, rate, every, kind, extra)

    yield name
    del METHODS._entries[name]


def test_defaults_are_spelled_out(invented: str) -> None:
    assert method_options(invented, {}) == {"rate": 0.5, "every": 10, "kind": "soft"}
    assert method_options(invented, {"every": 3}) == {"rate": 0.5, "every": 3, "kind": "soft"}
    assert method_options("train", {}) == {}


def test_an_option_that_came_later_is_left_out_at_its_default(invented: str) -> None:
    """So the cells of the time before it, whose description lacks it, keep their names."""
    assert method_options(invented, {"extra": 1}) == method_options(invented, {})
    changed = method_options(invented, {"extra": 2})
    assert changed == {"rate": 0.5, "every": 10, "kind": "soft", "extra": 2.0}
    assert method_options(invented, changed) == changed
    for name in ("bwn", "xnor"):
        assert method_options(name, {"gradient": "paper"}) == {}
        assert method_options(name, {"gradient": "authors-code"}) == {"gradient": "authors-code"}


def test_a_cell_of_an_earlier_meaning_is_not_taken_for_one_of_today() -> None:
    """Up to November 2026 `gmp` had one global threshold and `set` RigL's cosine: these were all of their options."""
    was = {"every": 100, "stop": 0.75}
    assert method_options("gmp", was) == {**was, "allocation": "layerwise"}
    with pytest.raises(InputError, match="method 'set': unknown option 'every'; expected one of drop"):
        method_options("set", {**was, "drop": 0.3})


def test_numbers_get_the_type_of_the_signature(invented: str) -> None:
    """1 and 1.0 in a file mean the same training, so they must be the same value."""
    options = method_options(invented, {"rate": 1})
    assert type(options["rate"]) is float
    assert options == method_options(invented, {"rate": 1.0})


def test_the_callback_is_made_with_situation_and_options(invented: str) -> None:
    made = callback_of(invented, CONTEXT, {"kind": "hard"})
    assert isinstance(made, Told)
    assert made.told == (CONTEXT, 0.5, 10, "hard", 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evry": 3}, "unknown option 'evry'; expected one of rate, every, kind, extra (did you mean 'every'?)"),
        ({"every": 2.5}, "method 'invented-for-a-test': every = 2.5; expected "),
        ({"every": "3"}, "every = '3'"),
        ({"rate": True}, "rate = True"),
        ({"kind": "hrad"}, "unknown kind 'hrad'; expected one of soft, hard (did you mean 'hard'?)"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(invented: str, options: dict[str, Any], message: str) -> None:
    for ask in (lambda: method_options(invented, options), lambda: callback_of(invented, CONTEXT, options)):
        with pytest.raises(InputError) as caught:
            ask()
        assert message in str(caught.value)


def test_a_method_without_options_says_so() -> None:
    with pytest.raises(InputError, match="method 'train': unknown option 'rate'; expected none"):
        method_options("train", {"rate": 1.0})


def test_an_unknown_method_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown method 'rigel'; .*did you mean 'rigl'"):
        callback_of("rigel", CONTEXT, {})
