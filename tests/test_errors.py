"""Errors: the sentence they make, the nearest word, and the way through a process boundary."""

from __future__ import annotations

import pickle

import pytest

from oneticket.errors import DamagedTicket, InputError, OneticketError, TicketError, nearest, unknown


def test_the_sentence_has_place_fault_expectation_and_nearest_word() -> None:
    full = InputError("unknown key 'lrr'", where="a.toml: recipe", expected="one of lr, epochs", nearest="lr")
    assert str(full) == "a.toml: recipe: unknown key 'lrr'; expected one of lr, epochs (did you mean 'lr'?)"
    assert str(InputError("no weight is left")) == "no weight is left"
    assert str(InputError("bad", nearest="good")) == "bad (did you mean 'good'?)"


def test_a_place_can_be_put_in_front() -> None:
    inner = DamagedTicket("ends too early", where="header", expected="8 bytes")
    outer = inner.at("t.safetensors")
    assert str(outer) == "t.safetensors: header: ends too early; expected 8 bytes"
    assert type(outer) is DamagedTicket
    assert str(InputError("bad").at("here")) == "here: bad"
    assert inner.where == "header"


@pytest.mark.parametrize("kind", [InputError, TicketError, DamagedTicket])
def test_errors_survive_pickling(kind: type[InputError]) -> None:
    error = kind("what", where="where", expected="expected", nearest="nearest")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.what, again.where, again.expected, again.nearest) == ("what", "where", "expected", "nearest")
    assert isinstance(again, OneticketError)


@pytest.mark.parametrize(
    ("word", "closest"),
    [("magnitud", "magnitude"), ("MAGNITUDE", "magnitude"), ("erk", "ERK"), ("xyzzy", None), ("", None)],
)
def test_the_nearest_word(word: str, closest: str | None) -> None:
    assert nearest(word, ["random", "magnitude", "ERK"]) == closest
    assert nearest(word, []) is None


def test_an_unknown_word_is_named_with_all_valid_ones() -> None:
    error = unknown("model", "vgg91", (name for name in ("vgg19", "resnet20")), where="model")
    assert str(error) == "model: unknown model 'vgg91'; expected one of vgg19, resnet20 (did you mean 'vgg19'?)"
