"""Reading with types: values come out as their fields declare, and errors say where they are."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneticket.errors import InputError
from oneticket.lab.spec.parsing import convert, refuse_unwritable


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: float = 1  # a whole number where a number is declared
    colour: Literal["red", "green"] = "red"


class Round(msgspec.Struct, forbid_unknown_fields=True, tag_field="form", tag="round"):
    radius: int


class Square(msgspec.Struct, forbid_unknown_fields=True, tag_field="form", tag="square"):
    side: int
    leaf: Leaf = Leaf()


class Tree(msgspec.Struct, forbid_unknown_fields=True):
    shapes: tuple[Round | Square, ...] = ()
    leaves: dict[str, Leaf] = {}
    pair: tuple[int, Leaf] | None = None


def refusal(raw: Any, where: str = "") -> str:
    with pytest.raises(InputError) as caught:
        convert(raw, Tree, where)
    return str(caught.value)


def test_a_default_has_the_type_that_its_field_declares() -> None:
    assert type(convert({}, Leaf).size) is float
    assert type(convert({"size": 2}, Leaf).size) is float


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"shape": []}, "unknown key 'shape'; expected one of shapes, leaves, pair (did you mean 'shapes'?)"),
        ({"shapes": [{"form": "round", "side": 1}]}, "shapes[0]: unknown key 'side'; expected one of form, radius"),
        ({"shapes": [{"form": "square", "sid": 1}]}, "shapes[0]: unknown key 'sid'; expected one of form, side, leaf"),
        ({"shapes": [{"form": "square", "side": 1, "leaf": {"siz": 1}}]}, "shapes[0].leaf: unknown key 'siz'"),
        ({"shapes": [{"form": "roun", "radius": 1}]}, "expected one of round, square (did you mean 'round'?)"),
        ({"shapes": [{"radius": 1}]}, "shapes[0]: the key 'form' is missing"),
        ({"shapes": [{"form": "round"}]}, "shapes[0]: the key 'radius' is missing"),
        ({"pair": [1, {"colour": "grean"}]}, "expected one of red, green (did you mean 'green'?)"),
        ({"pair": [1, {"color": "red"}]}, "pair[1]: unknown key 'color'; expected one of size, colour"),
        ({"pair": [1, {"size": "1"}]}, "pair[1].size: '1' is text; expected a number"),
        ({"pair": [1]}, "pair"),
    ],
)
def test_an_error_names_the_place_and_what_may_stand_there(raw: Any, expected: str) -> None:
    assert expected in refusal(raw)


def test_a_place_begins_where_the_table_stands() -> None:
    assert refusal({"pair": 1}, "forest.oak").startswith("forest.oak.pair: ")
    assert refusal(3, "forest.oak").startswith("forest.oak: ")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)  # fmt: skip


@given(plain)
def test_what_can_be_written_down_is_let_through(raw: Any) -> None:
    refuse_unwritable(raw)
    msgspec.json.encode(raw)


@given(raw=plain, bad=st.sampled_from([float("nan"), float("inf"), 2**63, -(2**63) - 1, "a\x00", "\x1b", "\x85"]))
def test_what_cannot_is_refused_at_its_place(raw: Any, bad: Any) -> None:
    with pytest.raises(InputError, match=r"^top\.here\[1\]: "):
        refuse_unwritable({"top": {"here": [raw, bad]}})
    if isinstance(bad, str):
        with pytest.raises(InputError, match=r"^top\."):
            refuse_unwritable({"top": {bad: raw}})
