"""Identity: equal descriptions get one name, different ones another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneticket.identity import canonical_json, digest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def reversed_keys(value: Any) -> Any:
    """The same value with every dictionary built in the opposite order."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(v) for v in value] if isinstance(value, list) else value


@given(VALUES)
def test_the_text_can_be_read_back_and_ignores_the_order_of_keys(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert canonical_json(reversed_keys(value)) == text


def test_the_text_is_pinned() -> None:
    """A change here would orphan every stored result."""
    value = {"b": [1, 1.0, True, None], "a": "é\n", "c": 1e-4}
    assert canonical_json(value) == '{"a":"é\\n","b":[1,1.0,true,null],"c":0.0001}'
    assert digest(value) == hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_values_of_different_types_differ() -> None:
    alike = [{"x": 160}, {"x": 160.0}, {"x": "160"}, {"x": [160]}, {"x": None}, {"x": True}, {}]
    assert len({digest(value) for value in alike}) == len(alike)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_cannot_say_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"lr": number})
